"""A layer's experts laid out for inference on a CPU, each expert's weights by themselves.

Put in place of `model.experts.Experts` by `load`. Weights of one expert lie together, gate above up
by rows and down by columns: with one row, slices of the whole matrices are read at 5 GB/s, these at
8 (PyTorch 2.13, MKL, two cores, experts of 16 to 256 columns).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from heddle.model.experts import Experts, dispatched
from heddle.model.router import Choice, Routing


class ServedExpert(NamedTuple):
    """One expert's weights, gate above up."""

    gate_up_FD: Tensor
    down_DF: Tensor

    def mix(self, x_TD: Tensor, weight: Tensor | float) -> Tensor:
        """Return the output of each row, times its weight."""
        gate_TF, up_TF = linear(x_TD, self.gate_up_FD).chunk(2, dim=-1)
        return linear(silu(gate_TF).mul_(up_TF).mul_(weight), self.down_DF)


class ServedExperts(nn.Module):
    """The same router, the same experts; tensors are no parameters any more."""

    def __init__(self, experts: Experts, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor):
        super().__init__()
        self.router = experts.router
        parts = zip(
            gate_FD.split(experts.widths),
            up_FD.split(experts.widths),
            down_DF.split(experts.widths, dim=1),
            strict=True,
        )
        self.experts = [
            ServedExpert(torch.cat([gate, up]), down.t().contiguous().t())
            for gate, up, down in parts
        ]

    def forward(
        self, x_TD: Tensor, routing: Routing, replayed_TE: Tensor | None = None
    ) -> tuple[Tensor, Choice]:
        """See `Experts.forward`."""
        choice = self.router(x_TD, routing, replayed_TE)
        weight_TE = choice.weight_TE.to(x_TD.dtype)
        if len(x_TD) == 1:
            return self._mix_one(x_TD, weight_TE), choice
        return dispatched(x_TD, weight_TE, [expert.mix for expert in self.experts]), choice

    def _mix_one(self, x_1D: Tensor, weight_1E: Tensor) -> Tensor:
        """Mix for a single row, with as few calls as can be: they take longer than the work."""
        mix_1D = torch.zeros_like(x_1D)
        for expert, weight in zip(self.experts, weight_1E[0].tolist(), strict=True):
            if weight and len(expert.gate_up_FD):
                mix_1D = mix_1D + expert.mix(x_1D, weight)
        return mix_1D
