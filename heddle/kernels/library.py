"""The interface of the native kernels: their libraries, functions and structures.

What `native/cpu.cpp` and the headers behind it declare, said in ctypes. Used by `cpu`.
"""

import ctypes
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

from torch import Tensor


class MatrixStruct(Structure):
    """`Matrix` of `native/matrix.h`."""

    _fields_ = [
        ("rows", c_int32),
        ("cols", c_int32),
        ("kind", c_int32),
        ("reserved", c_int32),
        ("data", c_void_p),
        ("bias", c_void_p),
    ]


class ShapeStruct(Structure):
    """`Shape` of `native/layers.h`."""

    _fields_ = [
        ("width", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_width", c_int32),
        ("ffn_width", c_int32),
        ("norm_eps", c_float),
    ]


class TierStruct(Structure):
    """`Tier` of `native/sight.h`."""

    _fields_ = [
        ("ratio", c_int32),
        ("reserved", c_int32),
        ("blocks", c_int64),
        ("cos", c_void_p),
        ("sin", c_void_p),
    ]


class MemoryStruct(Structure):
    """`Memory` of `native/sight.h`."""

    _fields_ = [
        ("block_tokens", c_int32),
        ("sink_tokens", c_int32),
        ("window_blocks", c_int32),
        ("paged_blocks", c_int32),
        ("num_tiers", c_int32),
        ("index_ratio", c_int32),
        ("tiers", c_void_p),
        ("distance_blocks", c_int64),
        ("index_cos", c_void_p),
        ("index_sin", c_void_p),
        ("frequencies", c_void_p),
    ]


class LayerStruct(Structure):
    """`Layer` of `native/layers.h`."""

    _fields_ = [
        ("attention_norm", c_void_p),
        ("ffn_norm", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("qkv", MatrixStruct),
        ("out", MatrixStruct),
        ("gate_up", MatrixStruct),
        ("down", MatrixStruct),
        ("experts", c_void_p),
        ("salience", c_void_p),
        ("mass", c_void_p),
    ]


class LoraStruct(Structure):
    """`Lora` of `native/layers.h`."""

    _fields_ = [("down", MatrixStruct), ("up", MatrixStruct)]


class LayerLoraStruct(Structure):
    """`LayerLora` of `native/layers.h`."""

    _fields_ = [(name, LoraStruct) for name in ("qkv", "out", "gate_up", "down")]


class ExpertStruct(Structure):
    """`Expert` of `native/experts.h`."""

    _fields_ = [("gate_up", MatrixStruct), ("down", MatrixStruct)]


class ExpertsStruct(Structure):
    """`Experts` of `native/experts.h`."""

    _fields_ = [
        ("num", c_int32),
        ("most", c_int32),
        ("mass", c_float),
        ("prior", c_float),
        ("scores", c_void_p),
        ("widths", c_void_p),
        ("balance", c_void_p),
        ("experts", c_void_p),
    ]


class RoutingStruct(Structure):
    """`Routing` of `native/experts.h`."""

    _fields_ = [
        ("log_prior", c_void_p),
        ("bias", c_void_p),
        ("logits", c_void_p),
        ("probability", c_void_p),
        ("weight", c_void_p),
        ("channels", c_void_p),
    ]


class ThinkStruct(Structure):
    """`Think` of `native/think.h`."""

    _fields_ = [
        ("mix_norm", c_void_p),
        ("steps", c_void_p),
        ("read_norm", c_void_p),
        ("mix", LoraStruct),
        ("gate", MatrixStruct),
        ("read", MatrixStruct),
        ("mix_eps", c_float),
        ("read_eps", c_float),
    ]


class GateStruct(Structure):
    """`Gate` of `native/gate.h`."""

    _fields_ = [
        ("norm", c_void_p),
        ("context", MatrixStruct),
        ("clusters", MatrixStruct),
        ("eps", c_float),
        ("decay", c_float),
        ("temperature", c_float),
        ("num_experts", c_int32),
        ("cluster", c_void_p),
        ("price", c_void_p),
    ]


class PastStruct(Structure):
    """`Past` of `native/gate.h`."""

    _fields_ = [
        ("sequences", c_void_p),
        ("positions", c_void_p),
        ("num_sequences", c_int32),
        ("page_tokens", c_int32),
        ("mean", c_void_p),
    ]


class OwnStruct(Structure):
    """`Own` of `native/sight.h`."""

    _fields_ = [("data", c_void_p), ("present", c_void_p)]


class SequenceStruct(Structure):
    """`Sequence` of `native/sight.h`."""

    _fields_ = [
        ("start", c_int32),
        ("end", c_int32),
        ("pages", c_void_p),
        ("own", c_void_p),
        ("first_block", c_int64),
    ]


class StepStruct(Structure):
    """`Step` of `native/layers.h`."""

    _fields_ = [
        ("num_tokens", c_int32),
        ("num_sequences", c_int32),
        ("page_tokens", c_int32),
        ("cache_kind", c_int32),
        ("block_tokens", c_int32),
        ("reserved", c_int32),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("positions", c_void_p),
        ("places", c_void_p),
        ("sequences", c_void_p),
    ]


class LayerCacheStruct(Structure):
    """`LayerCache` of `native/cache.h`."""

    _fields_ = [
        ("k", c_void_p),
        ("v", c_void_p),
        ("k_scale", c_void_p),
        ("v_scale", c_void_p),
        ("slots", c_void_p),
    ]


def address(tensor: Tensor | None) -> int | None:
    """Return where a tensor's numbers lie."""
    return None if tensor is None else tensor.data_ptr()


@cache
def library(instruction_set: str) -> ctypes.CDLL | None:
    """Return a build, None if there is none."""
    folder = Path(__file__).parent
    for path in sorted(folder.glob(f"_cpu_{instruction_set}*.so")):
        return _declared(ctypes.CDLL(str(path)))
    return None


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    # A stretch or a thinking block, layers, adapters, how many; step, caches, routing.
    run = [
        *(c_void_p, c_void_p, c_void_p, c_int32),
        *(POINTER(StepStruct), c_void_p, POINTER(RoutingStruct)),
    ]
    signatures = {
        "heddle_best": (c_char_p, []),
        "heddle_pool": (c_void_p, [c_int32]),
        "heddle_pool_free": (None, [c_void_p]),
        "heddle_stretch": (c_void_p, [POINTER(ShapeStruct), POINTER(MemoryStruct), c_void_p]),
        "heddle_stretch_free": (None, [c_void_p]),
        "heddle_run": (None, [*run, c_void_p]),
        "heddle_thinking": (c_void_p, [POINTER(ThinkStruct), c_void_p, c_void_p]),
        "heddle_thinking_free": (None, [c_void_p]),
        "heddle_read": (None, [c_void_p, c_void_p, c_int32, c_void_p]),
        "heddle_again": (None, [*run, c_int32, c_void_p, c_void_p, c_void_p]),
        "heddle_gate": (
            None,
            [c_void_p, POINTER(GateStruct), POINTER(PastStruct), c_void_p, c_int32, c_void_p],
        ),
        "heddle_tell": (
            None,
            [POINTER(GateStruct), c_void_p, c_void_p, c_int32, c_void_p, c_void_p],
        ),
        "heddle_product": (None, [c_void_p, POINTER(MatrixStruct), c_void_p, c_int32, c_void_p]),
        "heddle_normalise": (None, [c_void_p, c_void_p, c_int32, c_int32, c_float, c_void_p]),
        "heddle_angles": (
            None,
            [c_void_p, c_int32, c_float, c_void_p, c_int32, c_void_p, c_void_p],
        ),
        "heddle_rows": (c_bool, [POINTER(MatrixStruct), c_void_p, c_int32, c_void_p]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
