"""The serving form of `model.Memory`: keys and values in pages, one step's view of them.

`Pages` owns the tensors for the engine's life. `PagedMemory` says for one packed step where each
token is stored and what each sequence attends to.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from heddle.model.config import ModelConfig
from heddle.model.memory import attention


class Pages:
    """Keys and values of all layers: `num_pages` × `page_tokens` places each."""

    def __init__(
        self, config: ModelConfig, *, num_pages: int, page_tokens: int, dtype: torch.dtype
    ):
        self.page_tokens = page_tokens
        shape = (num_pages * page_tokens, config.num_kv_heads, config.head_width)
        self.k_LKC = [torch.empty(shape, dtype=dtype) for _ in range(config.num_layers)]
        self.v_LKC = [torch.empty(shape, dtype=dtype) for _ in range(config.num_layers)]


class Segment(NamedTuple):
    """One sequence's rows of a step, which attend to `num_past` tokens and to themselves.

    `pages` hold all of them, in order.
    """

    start: int
    end: int
    num_past: int
    pages: list[int]


class _Reach(NamedTuple):
    """What a segment reads: a slice when its pages are neighbours, else places to gather."""

    places: slice | Tensor
    mask_TL: Tensor | None


class PagedMemory:
    """Stores this step's keys and values and attends over the cache."""

    def __init__(self, pages: Pages, segments: list[Segment]):
        self._pages = pages
        self._segments = segments
        self._reaches = [self._reach(segment) for segment in segments]
        self._store_T = torch.cat([self._places(s)[s.num_past :] for s in segments])

    def attend(self, layer: int, q_THC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        """See `model.memory.Memory.attend`."""
        keys_LKC, values_LKC = self._pages.k_LKC[layer], self._pages.v_LKC[layer]
        keys_LKC[self._store_T] = k_TKC
        values_LKC[self._store_T] = v_TKC
        out_THC = torch.empty_like(q_THC)
        for segment, reach in zip(self._segments, self._reaches, strict=True):
            out_THC[segment.start : segment.end] = attention(
                q_THC[segment.start : segment.end],
                keys_LKC[reach.places],
                values_LKC[reach.places],
                mask=reach.mask_TL,
                is_causal=segment.num_past == 0,
            )
        return out_THC

    def _places(self, segment: Segment) -> Tensor:
        page_tokens = self._pages.page_tokens
        num_tokens = segment.num_past + segment.end - segment.start
        first_of_page = torch.tensor(segment.pages) * page_tokens
        return (first_of_page[:, None] + torch.arange(page_tokens)).flatten()[:num_tokens]

    def _reach(self, segment: Segment) -> _Reach:
        num_new = segment.end - segment.start
        num_tokens = segment.num_past + num_new
        first = segment.pages[0]
        places: slice | Tensor
        if segment.pages == list(range(first, first + len(segment.pages))):
            start = first * self._pages.page_tokens
            places = slice(start, start + num_tokens)
        else:
            places = self._places(segment)
        mask_TL = None
        if num_new > 1 and segment.num_past > 0:
            last_seen_T = torch.arange(segment.num_past, num_tokens)
            mask_TL = torch.arange(num_tokens) <= last_seen_T[:, None]
        return _Reach(places, mask_TL)
