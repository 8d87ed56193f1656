"""The native kernels: products, attention and layers over packed matrices, on CPU threads.

A build for each instruction set lies beside this file if a C++ compiler was there when the package
was installed (`setup.py`). `load` picks the best that the processor has; the engine asks for it and
runs on PyTorch where there is none. Calls let go of Python's lock.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from heddle.kernels.cache import LayerCache, OwnPage
from heddle.kernels.library import (
    LayerCacheStruct,
    LayerLoraStruct,
    LayerStruct,
    LoraStruct,
    RoutingStruct,
    SequenceStruct,
    ShapeStruct,
    StepStruct,
    address,
    library,
)
from heddle.kernels.packing import Room
from heddle.kernels.parts import (
    LayerWeights,
    Matrix,
    SlotMemory,
    experts_struct,
    layer_struct,
    memory_struct,
)

INSTRUCTION_SETS = ("avx512", "avx2", "dotprod", "neon", "portable")  # the best first
NORM_UNIT = 16  # the widest vector's floats
_CACHE_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}


def available() -> tuple[str, ...]:
    """Return the instruction sets that there are builds for and this processor has, best first."""
    portable = library("portable")
    if portable is None:
        return ()
    best = portable.heddle_best().decode()
    usable = INSTRUCTION_SETS[INSTRUCTION_SETS.index(best) :]
    return tuple(name for name in usable if library(name) is not None)


class Kernels:
    """One build's functions, and the threads that run them."""

    def __init__(self, instruction_set: str, *, num_threads: int):
        found = library(instruction_set)
        assert found is not None, "choose from `available()`"
        self.instruction_set = instruction_set
        self.room = Room()  # for what it multiplies
        self.library = found
        self.pool = found.heddle_pool(num_threads)

    def __del__(self):
        self.library.heddle_pool_free(self.pool)

    def product(self, matrix: Matrix, x_ND: Tensor) -> Tensor:
        """Return each row of `x_ND` (float32) times the matrix, plus its bias."""
        x_ND = x_ND.contiguous()
        out = torch.empty(len(x_ND), matrix.rows)
        self.library.heddle_product(
            self.pool, matrix.struct, x_ND.data_ptr(), len(x_ND), out.data_ptr()
        )
        return out

    def rows(self, matrix: Matrix, row_N: Tensor) -> Tensor:
        """Return some rows of a matrix as float32 numbers."""
        assert row_N.dtype == torch.int64 and row_N.is_contiguous(), "row numbers are int64"
        out = torch.empty(len(row_N), matrix.cols)
        has_all = self.library.heddle_rows(
            matrix.struct, row_N.data_ptr(), len(row_N), out.data_ptr()
        )
        assert has_all, f"there are rows 0 to {matrix.rows - 1}, not {row_N}"
        return out

    def normalise(self, x_ND: Tensor, weight_D: Tensor, *, eps: float) -> Tensor:
        """Return each row of `x_ND` (float32) with a mean square of one, times the weights.

        D is a multiple of `NORM_UNIT`.
        """
        x_ND = x_ND.contiguous()
        out_ND = torch.empty_like(x_ND)
        self.library.heddle_normalise(
            x_ND.data_ptr(), weight_D.data_ptr(), *x_ND.shape, eps, out_ND.data_ptr()
        )
        return out_ND

    def angles(
        self, position_T: Tensor, frequencies: Tensor, *, magnitude: float
    ) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (float32) as `heddle.model.rope.Angles` has them."""
        num, half = len(position_T), len(frequencies)
        cos_T1C, sin_T1C = torch.empty(2, num, 1, 2 * half)
        self.library.heddle_angles(
            frequencies.data_ptr(),
            half,
            magnitude,
            position_T.contiguous().data_ptr(),
            num,
            cos_T1C.data_ptr(),
            sin_T1C.data_ptr(),
        )
        return cos_T1C, sin_T1C


class LoraWeights(NamedTuple):
    """An adapter; `up` has as many columns as `down` has rows, filled up to whole groups."""

    down: Matrix
    up: Matrix


@dataclass(frozen=True, kw_only=True)
class LayerLoraWeights:
    """What later loops add to a layer's projections."""

    qkv: LoraWeights
    out: LoraWeights
    gate_up: LoraWeights
    down: LoraWeights


class Loras:
    """Adapters of neighbouring layers."""

    def __init__(self, weights: Sequence[LayerLoraWeights]):
        self._kept = weights
        self.structs = (LayerLoraStruct * len(weights))(
            *(
                LayerLoraStruct(
                    *(
                        LoraStruct(lora.down.struct, lora.up.struct)
                        for lora in (layer.qkv, layer.out, layer.gate_up, layer.down)
                    )
                )
                for layer in weights
            )
        )


class Routes(NamedTuple):
    """What is said of each token's experts (float32, tokens by experts), and room for the choice.

    See `heddle.model.router`: the first two are `Routing`'s, `chosen_3LTE` becomes the parts of a
    `Choice` in each of L layers. Widths of a token's experts are added to `channels_T`.
    """

    log_prior_TE: Tensor
    bias_TE: Tensor
    chosen_3LTE: Tensor
    channels_T: Tensor


class Span(NamedTuple):
    """Rows `start` to `end` - 1 of a step: tokens of one sequence.

    `page_P` (int64) are the sequence's pages, in order; `own`, in a later loop, the loop's own of
    `block`, which the tokens are in.
    """

    start: int
    end: int
    page_P: Tensor
    own: OwnPage | None = None
    block: int = 0


class Spans:
    """A step's sequences, as the kernels take them."""

    def __init__(self, spans: Sequence[Span]):
        self._kept = spans
        self.structs = (SequenceStruct * len(spans))(
            *(
                SequenceStruct(
                    start,
                    end,
                    page_P.data_ptr(),
                    None if own is None else ctypes.addressof(own.structs),
                    block,
                )
                for start, end, page_P, own, block in spans
            )
        )


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A step's tokens: their angles (float32) and positions, and the sequences they are of.

    `place_T` (int64) is a token's page times `page_tokens`, plus its place in it; None in a later
    loop, which has blocks of `block_tokens`.
    """

    cos_TC: Tensor
    sin_TC: Tensor
    position_T: Tensor
    place_T: Tensor | None
    spans: Spans
    page_tokens: int
    block_tokens: int = 0

    def struct(self, cache_kind: int) -> StepStruct:
        """Return the step as the kernels take it, over a cache of some kind."""
        sequences = self.spans.structs
        return StepStruct(
            len(self.position_T),
            len(sequences),
            self.page_tokens,
            cache_kind,
            self.block_tokens,
            0,
            *map(address, (self.cos_TC, self.sin_TC, self.position_T, self.place_T)),
            ctypes.addressof(sequences),
        )


class Stretch:
    """Decoder layers that run in one call; see `native/layers.h`."""

    def __init__(
        self,
        kernels: Kernels,
        layers: Sequence[LayerWeights],
        *,
        num_heads: int,
        num_kv_heads: int,
        head_width: int,
        norm_eps: float,
        memory: SlotMemory | None = None,
    ):
        first = layers[0]
        shape = ShapeStruct(
            first.qkv.cols, num_heads, num_kv_heads, head_width, first.down.cols, norm_eps
        )
        self.kernels = kernels
        self._library = kernels.library
        self._weights = layers
        self._caches: tuple[Sequence[LayerCache], Any] | None = None
        self._experts = [experts_struct(layer.experts) for layer in layers]
        self._layers = (LayerStruct * len(layers))(
            *(layer_struct(*each) for each in zip(layers, self._experts, strict=True))
        )
        self._memory = None if memory is None else memory_struct(memory)
        self.native = self._library.heddle_stretch(
            shape, None if self._memory is None else self._memory[0], kernels.pool
        )
        assert self.native is not None, f"{memory} contradicts itself"

    def __del__(self):
        self._library.heddle_stretch_free(self.native)

    @property
    def num_layers(self) -> int:
        """Layers in all."""
        return len(self._weights)

    def run(
        self,
        x_TD: Tensor,
        tokens: Tokens,
        caches: Sequence[LayerCache],
        *,
        layers: range,
        routes: Routes | None = None,
    ) -> None:
        """Bring `x_TD` through some layers, in place, and write keys and values to the cache.

        `caches` has all layers'. Experts are mixed in if `routes` are given.
        """
        passed = self.passed(tokens, caches, layers=layers, routes=routes)
        self._library.heddle_run(self.native, *passed, x_TD.data_ptr())

    def passed(
        self,
        tokens: Tokens,
        caches: Sequence[LayerCache],
        *,
        layers: range,
        routes: Routes | None = None,
        loras: Loras | None = None,
    ) -> tuple[Any, ...]:
        """Return what a call that runs some layers is told of them and of a step."""
        if self._caches is None or self._caches[0] is not caches:  # the same from step to step
            self._caches = (caches, _caches(caches))
        return (
            ctypes.byref(self._layers, layers.start * ctypes.sizeof(LayerStruct)),
            None if loras is None else loras.structs,
            len(layers),
            tokens.struct(_CACHE_KINDS[caches[0].k.dtype]),
            ctypes.byref(self._caches[1][0], layers.start * ctypes.sizeof(LayerCacheStruct)),
            routes and _routing(routes),
        )


def _caches(caches: Sequence[LayerCache]) -> tuple[Any, Any]:
    """Return an array of structs, and the arrays that it points to."""
    slots = [_caches(cache.slots) if cache.slots else None for cache in caches]
    array = (LayerCacheStruct * len(caches))(
        *(
            LayerCacheStruct(*map(address, cache.numbers), tiers and ctypes.addressof(tiers[0]))
            for cache, tiers in zip(caches, slots, strict=True)
        )
    )
    return array, slots


def _routing(routes: Routes) -> RoutingStruct:
    chosen, num_bytes = routes.chosen_3LTE.data_ptr(), routes.chosen_3LTE.nbytes // 3
    return RoutingStruct(
        routes.log_prior_TE.data_ptr(),
        routes.bias_TE.data_ptr(),
        *range(chosen, chosen + 3 * num_bytes, num_bytes),
        routes.channels_T.data_ptr(),
    )
