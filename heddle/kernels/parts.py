"""What native layers are made of, and its structures. Used by `cpu`."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from heddle.kernels.library import (
    ExpertsStruct,
    ExpertStruct,
    LayerStruct,
    MatrixStruct,
    MemoryStruct,
    TierStruct,
    address,
)
from heddle.kernels.packing import PackedMatrix

_KINDS = {"nibbles": 0, "bytes": 1}
_ALL_BLOCKS = 2**63 - 1


class Matrix:
    """A packed matrix and its bias, as the kernels take it."""

    def __init__(self, packed: PackedMatrix, bias: Tensor | None = None):
        self.rows, self.cols = packed.rows, packed.cols
        self.packed, self._bias = packed, bias
        self.struct = MatrixStruct(
            packed.rows, packed.cols, _KINDS[packed.kind], 0, *map(address, (packed.data, bias))
        )


@dataclass(frozen=True, kw_only=True)
class ExpertWeights:
    """A router and its experts: vectors and scores (float32), and by expert two matrices.

    `experts` holds (gates and ups `turn_by_turn`, down); the one that does nothing has None.
    """

    most: int
    mass: float
    prior: float
    scores_ED: Tensor
    widths_E: Tensor
    balance_E: Tensor
    experts: tuple[tuple[Matrix, Matrix] | None, ...]


class PoolerWeights(NamedTuple):
    """What `heddle.model.slots.Pooler` has learnt, in float32."""

    salience_2KC: Tensor
    mass: Tensor


class SlotTier(NamedTuple):
    """One slot for every `ratio` tokens of so many blocks, and the turns to a slot's centre."""

    ratio: int
    blocks: int | None
    cos: Tensor
    sin: Tensor


class Index(NamedTuple):
    """How blocks are found that are read exactly: a key for every `ratio` tokens.

    `cos` and `sin` turn these to a key's centre. Blocks beyond `distance_blocks` are read as if
    they were so old.
    """

    ratio: int
    cos: Tensor
    sin: Tensor
    frequencies: Tensor
    distance_blocks: int | None


@dataclass(frozen=True, kw_only=True)
class SlotMemory:
    """How layers see what is old; see `heddle.model.config.MemoryConfig`."""

    block_tokens: int
    sink_tokens: int
    window_blocks: int
    paged_blocks: int
    tiers: Sequence[SlotTier]
    index: Index | None = None


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
    pooler: PoolerWeights | None = None


def experts_struct(weights: ExpertWeights | None) -> tuple[ExpertsStruct, Any] | None:
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
        address(weights.scores_ED),
        address(weights.widths_E),
        address(weights.balance_E),
        ctypes.addressof(array),
    )
    return found, array


def layer_struct(weights: LayerWeights, experts: tuple[ExpertsStruct, Any] | None) -> LayerStruct:
    """Return the struct of a layer, from its weights and its experts' struct."""
    return LayerStruct(
        address(weights.attention_norm),
        address(weights.ffn_norm),
        address(weights.q_norm),
        address(weights.k_norm),
        weights.qkv.struct,
        weights.out.struct,
        weights.gate_up.struct,
        weights.down.struct,
        None if experts is None else ctypes.addressof(experts[0]),
        *map(address, weights.pooler or (None, None)),
    )


def memory_struct(memory: SlotMemory) -> tuple[MemoryStruct, Any]:
    """Return the struct, and the array and numbers that it points to."""
    tiers = (TierStruct * len(memory.tiers))(
        *(
            TierStruct(
                tier.ratio,
                0,
                _ALL_BLOCKS if tier.blocks is None else tier.blocks,
                address(tier.cos),
                address(tier.sin),
            )
            for tier in memory.tiers
        )
    )
    index = memory.index
    distance_blocks = None if index is None else index.distance_blocks
    found = MemoryStruct(
        memory.block_tokens,
        memory.sink_tokens,
        memory.window_blocks,
        memory.paged_blocks,
        len(tiers),
        0 if index is None else index.ratio,
        ctypes.addressof(tiers),
        _ALL_BLOCKS if distance_blocks is None else distance_blocks,
        *(
            (None,) * 3
            if index is None
            else map(address, (index.cos, index.sin, index.frequencies))
        ),
    )
    return found, (tiers, memory)
