"""Experts of different widths beside a layer's feed-forward, all columns in three matrices.

Experts lie side by side, so that any run of neighbouring ones is one slice: a batch that uses all
of them is one wide product, one token reads only its own few. Output weights start at zero: a
network that is given experts stays what it was.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from heddle.model.config import FabricConfig
from heddle.model.router import Choice, Router, Routing


class Experts(nn.Module):
    """A router and its SwiGLU experts; returns the mix to add, and the choice for the record."""

    def __init__(self, fabric: FabricConfig, *, width: int):
        super().__init__()
        self.router = Router(fabric, width=width)
        self.widths = [expert.width for expert in fabric.experts]
        gate_up_2FD = torch.empty(2, sum(self.widths), width).uniform_(-1, 1) / width**0.5
        self.gate, self.up = (nn.Parameter(weight_FD.clone()) for weight_FD in gate_up_2FD)
        self.down = nn.Parameter(torch.zeros(width, sum(self.widths)))

    def forward(self, x_TD: Tensor, routing: Routing) -> tuple[Tensor, Choice]:
        choice = self.router(x_TD, routing)
        mix_TD = torch.zeros_like(x_TD)
        for first, end in self._used(choice.weight_TE):
            columns = slice(sum(self.widths[:first]), sum(self.widths[:end]))
            hidden_TF = silu(linear(x_TD, self.gate[columns]))
            hidden_TF = hidden_TF * linear(x_TD, self.up[columns])
            hidden_TF = hidden_TF * self._by_column(choice.weight_TE, first, end).to(x_TD.dtype)
            mix_TD = mix_TD + linear(hidden_TF, self.down[:, columns])
        return mix_TD, choice

    def _used(self, weight_TE: Tensor) -> list[tuple[int, int]]:
        """Return runs of experts that some token uses, as (first, end).

        In training, and on a GPU, where asking would wait for it, that is all of them.
        """
        if self.training or weight_TE.is_cuda:
            return [(0, len(self.widths))]
        runs: list[tuple[int, int]] = []
        used = (weight_TE > 0).any(0).tolist()
        for expert, width in enumerate(self.widths):
            if not used[expert] or width == 0:
                continue
            if runs and runs[-1][1] == expert:
                runs[-1] = (runs[-1][0], expert + 1)
            else:
                runs.append((expert, expert + 1))
        return runs

    def _by_column(self, weight_TE: Tensor, first: int, end: int) -> Tensor:
        widths = torch.tensor(self.widths[first:end], device=weight_TE.device)
        return weight_TE[:, first:end].repeat_interleave(
            widths, dim=1, output_size=int(sum(self.widths[first:end]))
        )
