"""The thinking block's further loops and the gate over clusters, in native calls. See `cpu`."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heddle.kernels.cache import LayerCache
from heddle.kernels.cpu import Kernels, Loras, LoraWeights, Routes, Spans, Stretch, Tokens
from heddle.kernels.library import GateStruct, LoraStruct, PastStruct, ThinkStruct, address
from heddle.kernels.parts import Matrix


@dataclass(frozen=True, kw_only=True)
class ThinkWeights:
    """What is a thinking block's own, by the names of `heddle.model.think`; vectors in float32."""

    mix_norm: Tensor
    mix: LoraWeights
    step_RD: Tensor
    gate: Matrix
    read_norm: Tensor
    read: Matrix
    mix_eps: float
    read_eps: float


class Thinking:
    """A thinking block: neighbouring layers of a stretch, with adapters in later loops."""

    def __init__(self, stretch: Stretch, weights: ThinkWeights, loras: Loras, layers: range):
        assert weights.read.rows == 2, "hard and settled"
        self._stretch, self._loras, self.layers = stretch, loras, layers
        struct = ThinkStruct(
            *map(address, (weights.mix_norm, weights.step_RD, weights.read_norm)),
            LoraStruct(weights.mix.down.struct, weights.mix.up.struct),
            weights.gate.struct,
            weights.read.struct,
            weights.mix_eps,
            weights.read_eps,
        )
        self._kept = weights
        self._library = stretch.kernels.library
        self._native = self._library.heddle_thinking(struct, stretch.native, stretch.kernels.pool)

    def __del__(self):
        self._library.heddle_thinking_free(self._native)

    def read(self, h_TD: Tensor) -> Tensor:
        """Return what states say: logits of the answer's being hard, and of its having settled."""
        said_T2 = torch.empty(len(h_TD), 2)
        self._library.heddle_read(self._native, h_TD.data_ptr(), len(h_TD), said_T2.data_ptr())
        return said_T2

    def again(
        self,
        h_TD: Tensor,
        x_TD: Tensor,
        tokens: Tokens,
        caches: Sequence[LayerCache],
        *,
        loop: int,
        routes: Routes | None = None,
    ) -> Tensor:
        """Pass `h_TD` through the block for the `loop`th time, in place; return what it then says.

        `x_TD` is what entered the block at first.
        """
        said_T2 = torch.empty(len(h_TD), 2)
        passed = self._stretch.passed(
            tokens, caches, layers=self.layers, routes=routes, loras=self._loras
        )
        places = (part.data_ptr() for part in (x_TD, h_TD, said_T2))
        self._library.heddle_again(self._native, *passed, loop, *places)
        return said_T2


@dataclass(frozen=True, kw_only=True)
class GateWeights:
    """A gate by the names of `heddle.model.router`; `cluster_E` in int64, `price_E` in float32."""

    norm: Tensor
    eps: float
    context: Matrix
    clusters: Matrix
    decay: float
    temperature: float
    cluster_E: Tensor
    price_E: Tensor


class Gate:
    """The gate over clusters."""

    def __init__(self, kernels: Kernels, weights: GateWeights):
        self._kernels, self._kept = kernels, weights
        self._num_experts = len(weights.cluster_E)
        self._struct = GateStruct(
            address(weights.norm),
            weights.context.struct,
            weights.clusters.struct,
            weights.eps,
            weights.decay,
            weights.temperature,
            self._num_experts,
            *map(address, (weights.cluster_E, weights.price_E)),
        )

    def shares(
        self, x_TD: Tensor, spans: Spans, position_T: Tensor, mean_PJ: Tensor, *, page_tokens: int
    ) -> Tensor:
        """Return each token's share of the clusters, and bring pages' running means forward."""
        assert mean_PJ.dtype == torch.float32 and mean_PJ.shape[1] == self._kept.context.rows
        shares_TG = torch.empty(len(x_TD), self._kept.clusters.rows)
        past = PastStruct(
            ctypes.addressof(spans.structs),
            position_T.data_ptr(),
            len(spans.structs),
            page_tokens,
            mean_PJ.data_ptr(),
        )
        self._kernels.library.heddle_gate(
            self._kernels.pool,
            self._struct,
            past,
            x_TD.data_ptr(),
            len(x_TD),
            shares_TG.data_ptr(),
        )
        return shares_TG

    def told(self, shares_TG: Tensor, steer_TG: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what routers are told: the logarithms of clusters' shares, and what is added."""
        log_prior_TE, bias_TE = torch.empty(2, len(shares_TG), self._num_experts)
        self._kernels.library.heddle_tell(
            self._struct,
            shares_TG.data_ptr(),
            address(steer_TG),
            len(shares_TG),
            log_prior_TE.data_ptr(),
            bias_TE.data_ptr(),
        )
        return log_prior_TE, bias_TE
