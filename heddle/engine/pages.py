"""What the engine keeps of the past: tensors that live as long as it does. Used by `paged_memory`.

A page has room for `page_tokens` tokens. Networks that loop or summarise get pages of one of their
blocks, so that all that a shared prefix needs is in its pages.
"""

import torch
from torch import Tensor

from heddle.engine.config import EngineConfig
from heddle.kernels.cache import OwnPage, empty_cache
from heddle.model.config import ModelConfig
from heddle.model.slots import Slots


def page_tokens(model: ModelConfig, config: EngineConfig) -> int:
    """Return the size of a page: a block of the network's, if it has blocks."""
    if model.memory:
        return model.memory.block_tokens
    return model.think.block_tokens if model.think else config.page_tokens


class Pages:
    """Keys and values of all layers, slots of all tiers, the index, and the gate's running mean.

    In native pages all lies as the kernels have it, slots and index too. `mean_PJ` is the mean
    behind the last token that was stored in a page.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_pages: int,
        page_tokens: int,
        dtype: torch.dtype,
        is_native: bool = False,
    ):
        think = config.think
        blocks = [part.block_tokens for part in (think, config.memory) if part]
        assert all(size == page_tokens for size in blocks), "a page is a block"
        self.page_tokens = page_tokens
        self.is_native = is_native
        self.memory = config.memory
        self.think_layers = range(0)
        if think is not None:
            self.think_layers = range(think.first_layer, think.first_layer + think.num_layers)
        heads = (config.num_kv_heads, config.head_width)
        sizes = [page_tokens // tier.ratio for tier in self.memory.tiers] if self.memory else []
        native_sizes, sizes = (sizes, []) if is_native else ([], sizes)
        num_index = 0
        if self.memory and self.memory.index_ratio:
            num_index = page_tokens // self.memory.index_ratio
        native_index = num_pages * num_index if is_native else 0
        self.native = [
            empty_cache(
                num_pages * page_tokens,
                heads,
                dtype,
                [empty_cache(num_pages * size, heads, dtype) for size in native_sizes],
                num_index=native_index,
            )
            for _ in range(config.num_layers)
        ]
        self.k_LKC = [cache.k for cache in self.native]
        self.v_LKC = [cache.v for cache in self.native]
        self.slots = [
            [_empty_slots(num_pages, size, heads, dtype) for size in sizes]
            for _ in range(config.num_layers)
        ]
        self.index_PMKC = [
            torch.empty(num_pages, 0 if is_native else num_index, *heads, dtype=dtype)
            for _ in range(config.num_layers)
        ]
        mean_width = config.fabric.context_width if config.fabric else 0
        self.mean_PJ = torch.zeros(
            num_pages, mean_width, dtype=torch.float32 if is_native else dtype
        )
        self._by_page = self._all_by_page()

    def own_page(self) -> OwnPage:
        """Return an empty page for what a sequence's block leaves behind in a later loop."""
        num_layers = len(self.think_layers)
        return self.native[0].own_page(num_layers=num_layers, block_tokens=self.page_tokens)

    def of(self, tensor_LKC: Tensor, page_P: Tensor) -> Tensor:
        """Return whole pages of a layer's keys or values, (pages, tokens, heads, channels)."""
        return tensor_LKC.unflatten(0, (-1, self.page_tokens))[page_P]

    def parts(self, page: int) -> list[Tensor]:
        """Return all that there is of a page, as views."""
        return [tensor[page] for tensor in self._by_page]

    def copy(self, source: int, target: int) -> None:
        """Make a page hold what another holds."""
        for tensor in self._by_page:
            tensor[target] = tensor[source]

    def _all_by_page(self) -> list[Tensor]:
        caches = [each for cache in self.native for each in (cache, *cache.slots)]
        kept = [tensor for cache in caches for tensor in cache.numbers if tensor is not None]
        kept = [tensor for tensor in kept if tensor.numel()]
        whole = [tensor.unflatten(0, (len(self.mean_PJ), -1)) for tensor in kept]
        whole += [tensor for tiers in self.slots for slots in tiers for tensor in slots]
        whole += self.index_PMKC
        return [tensor for tensor in (*whole, self.mean_PJ) if tensor.numel()]


def _empty_slots(num_pages: int, size: int, heads: tuple[int, int], dtype: torch.dtype) -> Slots:
    return Slots(
        torch.empty(num_pages, size, *heads, dtype=dtype),
        torch.empty(num_pages, size, *heads, dtype=dtype),
        torch.empty(num_pages, size, dtype=dtype),
    )
