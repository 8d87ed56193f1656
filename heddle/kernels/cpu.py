"""The native kernels: products, attention and layers over packed matrices, on CPU threads.

A build for each instruction set lies beside this file if a C++ compiler was there when the package
was installed (`setup.py`). `load` picks the best that the processor has; the engine asks for it and
runs on PyTorch where there is none. Calls let go of Python's lock.
"""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from heddle.kernels.packing import PackedMatrix

INSTRUCTION_SETS = ("avx512", "avx2", "portable")  # the best first
_KINDS = {"nibbles": 0, "bytes": 1}
_CACHE_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}


class _Matrix(Structure):
    _fields_ = [
        ("rows", c_int32),
        ("cols", c_int32),
        ("kind", c_int32),
        ("reserved", c_int32),
        ("data", c_void_p),
        ("bias", c_void_p),
    ]


class _Shape(Structure):
    _fields_ = [
        ("width", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_width", c_int32),
        ("ffn_width", c_int32),
        ("norm_eps", c_float),
    ]


class _Layer(Structure):
    _fields_ = [
        ("attention_norm", c_void_p),
        ("ffn_norm", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("qkv", _Matrix),
        ("out", _Matrix),
        ("gate_up", _Matrix),
        ("down", _Matrix),
        ("experts", c_void_p),
    ]


class _Expert(Structure):
    _fields_ = [("gate_up", _Matrix), ("down", _Matrix)]


class _Experts(Structure):
    _fields_ = [
        ("num", c_int32),
        ("most", c_int32),
        ("mass", c_float),
        ("prior", c_float),
        ("scores", c_void_p),
        ("balance", c_void_p),
        ("experts", c_void_p),
    ]


class _Routing(Structure):
    _fields_ = [
        ("log_prior", c_void_p),
        ("bias", c_void_p),
        ("logits", c_void_p),
        ("probability", c_void_p),
        ("weight", c_void_p),
    ]


class _Sequence(Structure):
    _fields_ = [
        ("start", c_int32),
        ("end", c_int32),
        ("num_past", c_int32),
        ("reserved", c_int32),
        ("pages", c_void_p),
    ]


class _Step(Structure):
    _fields_ = [
        ("num_tokens", c_int32),
        ("num_sequences", c_int32),
        ("page_tokens", c_int32),
        ("cache_kind", c_int32),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("places", c_void_p),
        ("sequences", c_void_p),
    ]


class _LayerCache(Structure):
    _fields_ = [
        ("k", c_void_p),
        ("v", c_void_p),
        ("k_scale", c_void_p),
        ("v_scale", c_void_p),
    ]


@cache
def _library(instruction_set: str) -> ctypes.CDLL | None:
    """Return a build, None if there is none."""
    folder = Path(__file__).parent
    for path in sorted(folder.glob(f"_cpu_{instruction_set}*.so")):
        return _declared(ctypes.CDLL(str(path)))
    return None


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    signatures = {
        "heddle_best": (c_char_p, []),
        "heddle_pool": (c_void_p, [c_int32]),
        "heddle_pool_free": (None, [c_void_p]),
        "heddle_stretch": (c_void_p, [POINTER(_Shape), c_void_p]),
        "heddle_stretch_free": (None, [c_void_p]),
        "heddle_run": (
            None,
            [c_void_p, c_void_p, c_int32, POINTER(_Step), c_void_p, c_void_p, c_void_p],
        ),
        "heddle_product": (None, [c_void_p, POINTER(_Matrix), c_void_p, c_int32, c_void_p]),
        "heddle_rows": (None, [POINTER(_Matrix), c_void_p, c_int32, c_void_p]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def available() -> tuple[str, ...]:
    """Return the instruction sets that there are builds for and this processor has, best first."""
    portable = _library("portable")
    if portable is None:
        return ()
    best = portable.heddle_best().decode()
    usable = INSTRUCTION_SETS[INSTRUCTION_SETS.index(best) :]
    return tuple(name for name in usable if _library(name) is not None)


class Kernels:
    """One build's functions, and the threads that run them."""

    def __init__(self, instruction_set: str, *, num_threads: int):
        library = _library(instruction_set)
        assert library is not None, "choose from `available()`"
        self.instruction_set = instruction_set
        self._library = library
        self._pool = library.heddle_pool(num_threads)

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
        assert not len(row_N) or 0 <= int(row_N.min()) <= int(row_N.max()) < matrix.rows, row_N
        out = torch.empty(len(row_N), matrix.cols)
        self._library.heddle_rows(matrix.struct, row_N.data_ptr(), len(row_N), out.data_ptr())
        return out


class Matrix:
    """A packed matrix and its bias, as the kernels take it."""

    def __init__(self, packed: PackedMatrix, bias: Tensor | None = None):
        self.rows, self.cols = packed.rows, packed.cols
        self._kept = (packed.data.contiguous(), bias)
        self.struct = _Matrix(
            packed.rows, packed.cols, _KINDS[packed.kind], 0, *map(_address, self._kept)
        )


@dataclass(frozen=True, kw_only=True)
class ExpertWeights:
    """A router and its experts: `scores_ED`, `balance_E` (float32), and by expert two matrices.

    `experts` holds (gates above ups, down); the one that does nothing has None.
    """

    most: int
    mass: float
    prior: float
    scores_ED: Tensor
    balance_E: Tensor
    experts: tuple[tuple[Matrix, Matrix] | None, ...]


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """What a decoder layer is made of; norms are float32 vectors."""

    attention_norm: Tensor
    ffn_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    qkv: Matrix
    out: Matrix
    gate_up: Matrix
    down: Matrix
    experts: ExpertWeights | None = None


class Routes(NamedTuple):
    """What is said of each token's experts (float32, tokens by experts), and room for the choice.

    See `heddle.model.router`: the first two are `Routing`'s, the rest become a `Choice`.
    """

    log_prior_TE: Tensor
    bias_TE: Tensor
    logits_TE: Tensor
    probability_TE: Tensor
    weight_TE: Tensor


@dataclass(frozen=True, kw_only=True)
class Span:
    """Rows `start` to `end` - 1 of a step: tokens of one sequence behind `num_past` others.

    `page_P` (int64) are the pages that hold all of them, in order.
    """

    start: int
    end: int
    num_past: int
    page_P: Tensor


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A step's tokens: their angles (float32), where they are kept, and the sequences they are of.

    `place_T` (int64) is a token's page times `page_tokens`, plus its place in it.
    """

    cos_TC: Tensor
    sin_TC: Tensor
    place_T: Tensor
    spans: Sequence[Span]
    page_tokens: int


class LayerCache(NamedTuple):
    """A layer's keys and values, in pages as `native/attention.h` has them; scales if in int8."""

    k: Tensor
    v: Tensor
    k_scale: Tensor | None
    v_scale: Tensor | None


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
        shape = _Shape(
            first.qkv.cols, num_heads, num_kv_heads, head_width, first.down.cols, norm_eps
        )
        self._kernels = kernels
        self._library = kernels._library
        self._weights = layers
        self._caches: tuple[Sequence[LayerCache], Any] | None = None
        self._experts = [_experts(layer.experts) for layer in layers]
        self._layers = (_Layer * len(layers))(
            *(_layer(*each) for each in zip(layers, self._experts, strict=True))
        )
        self._stretch = self._library.heddle_stretch(shape, kernels._pool)

    def __del__(self):
        self._library.heddle_stretch_free(self._stretch)

    def run(
        self,
        x_TD: Tensor,
        tokens: Tokens,
        caches: Sequence[LayerCache],
        *,
        layer: int | None = None,
        routes: Routes | None = None,
    ) -> None:
        """Bring `x_TD` through the layers, in place, and write keys and values to the cache.

        `caches` has all layers'. Given a `layer` only that one runs, with its experts if `routes`
        are given, too.
        """
        sequences = (_Sequence * len(tokens.spans))(
            *(_Sequence(s.start, s.end, s.num_past, 0, s.page_P.data_ptr()) for s in tokens.spans)
        )
        step = _Step(
            len(x_TD),
            len(tokens.spans),
            tokens.page_tokens,
            _CACHE_KINDS[caches[0].k.dtype],
            tokens.cos_TC.data_ptr(),
            tokens.sin_TC.data_ptr(),
            tokens.place_T.data_ptr(),
            ctypes.addressof(sequences),
        )
        if self._caches is None or self._caches[0] is not caches:  # the same from step to step
            rows = (_LayerCache(*map(_address, cache)) for cache in caches)
            self._caches = (caches, (_LayerCache * len(caches))(*rows))
        first, num = (0, len(self._weights)) if layer is None else (layer, 1)
        self._library.heddle_run(
            self._stretch,
            ctypes.byref(self._layers, first * ctypes.sizeof(_Layer)),
            num,
            step,
            x_TD.data_ptr(),
            ctypes.byref(self._caches[1], first * ctypes.sizeof(_LayerCache)),
            None if routes is None else ctypes.byref(_Routing(*map(_address, routes))),
        )


def _experts(weights: ExpertWeights | None) -> tuple[_Experts, Any] | None:
    """Return the struct, and the array that it points to."""
    if weights is None:
        return None
    nothing = _Expert()
    array = (_Expert * len(weights.experts))(
        *(_Expert(pair[0].struct, pair[1].struct) if pair else nothing for pair in weights.experts)
    )
    found = _Experts(
        len(weights.experts),
        weights.most,
        weights.mass,
        weights.prior,
        _address(weights.scores_ED),
        _address(weights.balance_E),
        ctypes.addressof(array),
    )
    return found, array


def _layer(weights: LayerWeights, experts: tuple[_Experts, Any] | None) -> _Layer:
    return _Layer(
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
