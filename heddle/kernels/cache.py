"""Keys and values as native kernels read them (`native/cache.h`). Used by `cpu` and the engine."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from heddle.kernels.library import OwnStruct

CHUNK = 64  # tokens that a number of `OwnPage.present` has bits for


class OwnPage:
    """What tokens of one block left behind in a later loop; `Own` in `native/sight.h`."""

    def __init__(self, data: Tensor, present: Tensor):
        self.data, self.present = data, present
        self.structs = (OwnStruct * 1)(OwnStruct(data.data_ptr(), present.data_ptr()))


class LayerCache(NamedTuple):
    """A layer's keys and values, in pages; scales if in int8, slots by tier if there are any.

    Where pages are chosen by an index, it stands behind the tiers, without values.
    """

    k: Tensor
    v: Tensor
    k_scale: Tensor | None
    v_scale: Tensor | None
    slots: Sequence["LayerCache"] = ()

    @property
    def numbers(self) -> tuple[Tensor | None, ...]:
        """Keys, values and their scales."""
        return self.k, self.v, self.k_scale, self.v_scale

    def own_page(self, *, num_layers: int, block_tokens: int) -> OwnPage:
        """Return an empty page for what a block leaves behind in a later loop of some layers."""
        _, num_heads, width = self.k.shape
        scale_bytes = 0 if self.k_scale is None else self.k_scale.itemsize
        layer_bytes = 2 * num_heads * block_tokens * (width * self.k.itemsize + scale_bytes)
        present = torch.zeros(-(-block_tokens // CHUNK), dtype=torch.int64)
        return OwnPage(torch.zeros(num_layers, layer_bytes, dtype=torch.uint8), present)

    def take(self, page: int, own: OwnPage, number: int, *, block_tokens: int) -> None:
        """Put in a page, of a block's size, what tokens left behind in layer `number` of a loop."""
        _, num_heads, width = self.k.shape
        is_present_L = (own.present[:, None] >> torch.arange(CHUNK) & 1).flatten()[:block_tokens]
        by_token = (num_heads, block_tokens)
        shapes = ((num_heads, width, block_tokens), (*by_token, width), by_token, by_token)
        rest = own.data[number]
        for cache, shape in zip(self.numbers, shapes, strict=True):
            if cache is None:
                continue
            into = cache.view(-1, *shape)[page]
            mine, rest = rest.tensor_split([into.nbytes])
            is_present = is_present_L[:, None] if cache is self.v else is_present_L
            into.copy_(torch.where(is_present > 0, mine.view(cache.dtype).view(shape), into))


def empty_cache(
    num_places: int,
    heads: tuple[int, int],
    dtype: torch.dtype,
    slots: Sequence[LayerCache] = (),
    *,
    num_index: int = 0,
) -> LayerCache:
    """Return room for so many tokens or slots, of (kv heads, channels), and an index's keys."""
    if num_index:
        slots = [*slots, _empty(num_index, 0, heads, dtype)]
    return _empty(num_places, num_places, heads, dtype)._replace(slots=slots)


def _empty(
    num_keys: int, num_values: int, heads: tuple[int, int], dtype: torch.dtype
) -> LayerCache:
    sizes = (num_keys, num_values)
    k, v = (torch.empty(size, *heads, dtype=dtype) for size in sizes)
    if dtype != torch.int8:
        return LayerCache(k, v, None, None)
    k_scale, v_scale = (torch.empty(size, heads[0]) for size in sizes)
    return LayerCache(k, v, k_scale, v_scale)
