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

from heddle.kernels.library import (
    ExpertsStruct,
    ExpertStruct,
    LayerCacheStruct,
    LayerLoraStruct,
    LayerStruct,
    LoraStruct,
    MatrixStruct,
    OwnStruct,
    RoutingStruct,
    SequenceStruct,
    ShapeStruct,
    StepStruct,
    library,
)
from heddle.kernels.packing import PackedMatrix, Room

INSTRUCTION_SETS = ("avx512", "avx2", "dotprod", "neon", "portable")  # the best first
_KINDS = {"nibbles": 0, "bytes": 1}
CHUNK = 64  # keys that attention meets at once
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
        self._library = found
        self._pool = found.heddle_pool(num_threads)

    def __del__(self):
        self._library.heddle_pool_free(self._pool)

    def product(self, matrix: "Matrix", x_ND: Tensor) -> Tensor:
        """Return each row of `x_ND` (float32) times the matrix, plus its bias."""
        x_ND = x_ND.contiguous()
        out = torch.empty(len(x_ND), matrix.rows)
        self._library.heddle_product(
            self._pool, matrix.struct, x_ND.data_ptr(), len(x_ND), out.data_ptr()
        )
        return out

    def rows(self, matrix: "Matrix", row_N: Tensor) -> Tensor:
        """Return some rows of a matrix as float32 numbers."""
        assert row_N.dtype == torch.int64 and row_N.is_contiguous(), "row numbers are int64"
        out = torch.empty(len(row_N), matrix.cols)
        has_all = self._library.heddle_rows(
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
        self._library.heddle_normalise(
            x_ND.data_ptr(), weight_D.data_ptr(), *x_ND.shape, eps, out_ND.data_ptr()
        )
        return out_ND

    def angles(
        self, position_T: Tensor, frequencies: Tensor, *, magnitude: float
    ) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (float32) as `heddle.model.rope.Angles` has them."""
        num, half = len(position_T), len(frequencies)
        cos_T1C, sin_T1C = torch.empty(2, num, 1, 2 * half)
        self._library.heddle_angles(
            frequencies.data_ptr(),
            half,
            magnitude,
            position_T.contiguous().data_ptr(),
            num,
            cos_T1C.data_ptr(),
            sin_T1C.data_ptr(),
        )
        return cos_T1C, sin_T1C


class Matrix:
    """A packed matrix and its bias, as the kernels take it."""

    def __init__(self, packed: PackedMatrix, bias: Tensor | None = None):
        self.rows, self.cols = packed.rows, packed.cols
        self.packed, self._bias = packed, bias
        self.struct = MatrixStruct(
            packed.rows, packed.cols, _KINDS[packed.kind], 0, *map(_address, (packed.data, bias))
        )


@dataclass(frozen=True, kw_only=True)
class ExpertWeights:
    """A router and its experts: `scores_ED`, `balance_E` (float32), and by expert two matrices.

    `experts` holds (gates and ups `turn_by_turn`, down); the one that does nothing has None.
    """

    most: int
    mass: float
    prior: float
    scores_ED: Tensor
    balance_E: Tensor
    experts: tuple[tuple[Matrix, Matrix] | None, ...]


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """What a decoder layer is made of; norms are float32 vectors, `gate_up` is `turn_by_turn`."""

    attention_norm: Tensor
    ffn_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    qkv: Matrix
    out: Matrix
    gate_up: Matrix
    down: Matrix
    experts: ExpertWeights | None = None


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
    `Choice` in each of L layers.
    """

    log_prior_TE: Tensor
    bias_TE: Tensor
    chosen_3LTE: Tensor


class OwnPage(NamedTuple):
    """What tokens of one block left behind in a later loop; `Own` in `native/attention.h`."""

    data: Tensor
    present: Tensor


@dataclass(frozen=True, kw_only=True)
class Span:
    """Rows `start` to `end` - 1 of a step: tokens of one sequence.

    `page_P` (int64) are the sequence's pages, in order; `own`, in a later loop, the loop's own of
    the blocks from `first_block` on that the tokens are in.
    """

    start: int
    end: int
    page_P: Tensor
    own: Sequence[OwnPage] = ()
    first_block: int = 0


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
    spans: Sequence[Span]
    page_tokens: int
    block_tokens: int = 0


class LayerCache(NamedTuple):
    """A layer's keys and values, in pages as `native/attention.h` has them; scales if in int8."""

    k: Tensor
    v: Tensor
    k_scale: Tensor | None
    v_scale: Tensor | None

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
        for cache, shape in zip(self, shapes, strict=True):
            if cache is None:
                continue
            into = cache.view(-1, *shape)[page]
            mine, rest = rest.tensor_split([into.nbytes])
            is_present = is_present_L[:, None] if cache is self.v else is_present_L
            into.copy_(torch.where(is_present > 0, mine.view(cache.dtype).view(shape), into))


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
    ):
        first = layers[0]
        shape = ShapeStruct(
            first.qkv.cols, num_heads, num_kv_heads, head_width, first.down.cols, norm_eps
        )
        self._kernels = kernels
        self._library = kernels._library
        self._weights = layers
        self._caches: tuple[Sequence[LayerCache], Any] | None = None
        self._experts = [_experts(layer.experts) for layer in layers]
        self._layers = (LayerStruct * len(layers))(
            *(_layer(*each) for each in zip(layers, self._experts, strict=True))
        )
        self._stretch = self._library.heddle_stretch(shape, kernels._pool)

    def __del__(self):
        self._library.heddle_stretch_free(self._stretch)

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
        loras: Loras | None = None,
    ) -> None:
        """Bring `x_TD` through some layers, in place, and write keys and values to the cache.

        `caches` has all layers'. Experts are mixed in if `routes` are given; `loras` are those of a
        later loop.
        """
        sequences = [_sequence(span) for span in tokens.spans]
        array = (SequenceStruct * len(sequences))(*(found for found, _ in sequences))
        step = StepStruct(
            len(x_TD),
            len(array),
            tokens.page_tokens,
            _CACHE_KINDS[caches[0].k.dtype],
            tokens.block_tokens,
            0,
            *map(_address, (tokens.cos_TC, tokens.sin_TC, tokens.position_T, tokens.place_T)),
            ctypes.addressof(array),
        )
        if self._caches is None or self._caches[0] is not caches:  # the same from step to step
            rows = (LayerCacheStruct(*map(_address, cache)) for cache in caches)
            self._caches = (caches, (LayerCacheStruct * len(caches))(*rows))
        self._library.heddle_run(
            self._stretch,
            ctypes.byref(self._layers, layers.start * ctypes.sizeof(LayerStruct)),
            None if loras is None else loras.structs,
            len(layers),
            step,
            x_TD.data_ptr(),
            ctypes.byref(self._caches[1], layers.start * ctypes.sizeof(LayerCacheStruct)),
            None if routes is None else _routings(routes),
        )


def _sequence(span: Span) -> tuple[SequenceStruct, Any]:
    """Return the struct, and the array that it points to."""
    own = (OwnStruct * len(span.own))(*(OwnStruct(*map(_address, page)) for page in span.own))
    address = ctypes.addressof(own) if span.own else None
    pages = span.page_P.data_ptr()
    return SequenceStruct(span.start, span.end, pages, address, span.first_block), own


def _routings(routes: Routes) -> Any:
    """Return an array with the addresses of what is said of each layer's experts."""
    chosen_3LTE = routes.chosen_3LTE
    num_layers = chosen_3LTE.shape[1]
    said = _address(routes.log_prior_TE), _address(routes.bias_TE)
    first, step = chosen_3LTE.data_ptr(), chosen_3LTE.stride(1) * chosen_3LTE.itemsize
    return (RoutingStruct * num_layers)(
        *(
            RoutingStruct(*said, *(first + (part * num_layers + i) * step for part in range(3)))
            for i in range(num_layers)
        )
    )


def _experts(weights: ExpertWeights | None) -> tuple[ExpertsStruct, Any] | None:
    """Return the struct, and the array that it points to."""
    if weights is None:
        return None
    nothing = ExpertStruct()
    array = (ExpertStruct * len(weights.experts))(
        *(
            ExpertStruct(pair[0].struct, pair[1].struct) if pair else nothing
            for pair in weights.experts
        )
    )
    found = ExpertsStruct(
        len(weights.experts),
        weights.most,
        weights.mass,
        weights.prior,
        _address(weights.scores_ED),
        _address(weights.balance_E),
        ctypes.addressof(array),
    )
    return found, array


def _layer(weights: LayerWeights, experts: tuple[ExpertsStruct, Any] | None) -> LayerStruct:
    return LayerStruct(
        _address(weights.attention_norm),
        _address(weights.ffn_norm),
        _address(weights.q_norm),
        _address(weights.k_norm),
        weights.qkv.struct,
        weights.out.struct,
        weights.gate_up.struct,
        weights.down.struct,
        None if experts is None else ctypes.addressof(experts[0]),
    )


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
