"""What attention holds for a sequence's next token in the engine: counted, not computed.

Called by the experiment `memory`. A sequence is read into the engine's pages, then one token more;
while that is read, every call of attention is looked at.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from heddle.engine.config import EngineConfig
from heddle.engine.paged_memory import LaterLoops, PagedMemory, Segment
from heddle.engine.pages import Pages, page_tokens
from heddle.model.batch import Packed
from heddle.model.transformer import Transformer

READ_TOKENS = 512  # at a time, before the last one


class Held(NamedTuple):
    """Keys that each layer's attention was given, and bytes of them and of values, all layers.

    `kept_bytes` is what the engine keeps to choose from.
    """

    num_keys: tuple[int, ...]
    size_bytes: int
    kept_bytes: int


class _Noted(TorchFunctionMode, AbstractContextManager):
    """Notes the keys and values of every attention inside it."""

    def __init__(self):
        super().__init__()
        self.num_keys: list[int] = []
        self.size_bytes = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is scaled_dot_product_attention:
            _, k_SKLC, v_SKLC = args
            self.num_keys.append(k_SKLC.shape[-2])
            self.size_bytes += k_SKLC.nbytes + v_SKLC.nbytes
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def held(model: Transformer, token_T: Tensor) -> Held:
    """Return what attention holds for the last of the tokens."""
    size = page_tokens(model.config, EngineConfig())
    numbers = list(range(-(-len(token_T) // size)))
    pages = Pages(
        model.config, num_pages=len(numbers), page_tokens=size, dtype=model.embed.weight.dtype
    )
    later, last = LaterLoops(), len(token_T) - 1
    for start in range(0, last, READ_TOKENS):
        end = min(last, start + READ_TOKENS)
        segment = Segment(0, end - start, start, numbers, later)
        model(_packed(token_T, start, end), PagedMemory(pages, [segment]))
    with _Noted() as noted:
        segment = Segment(0, 1, last, numbers, later)
        model(_packed(token_T, last, last + 1), PagedMemory(pages, [segment]))
    kept: Sequence[Tensor] = [*pages.k_LKC, *pages.v_LKC, *pages.index_PMKC]
    kept = [*kept, *(each for layer in pages.slots for slots in layer for each in slots)]
    return Held(tuple(noted.num_keys), noted.size_bytes, sum(each.nbytes for each in kept))


def _packed(token_T: Tensor, start: int, end: int) -> Packed:
    return Packed(
        token_T=token_T[start:end],
        position_T=torch.arange(start, end),
        bounds_S1=(0, end - start),
        output_N=torch.empty(0, dtype=torch.long),
    )
