"""Experts of different widths beside a layer's feed-forward, all columns in three matrices.

Experts lie side by side: one is a slice, all of them are one wide product. Output weights start at
zero: a network that is given experts stays what it was.
"""

from collections.abc import Callable, Sequence
from functools import partial

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
        # Scaled by the draw: on the meta device a division costs seconds of imports.
        bound = width**-0.5
        gate_up_2FD = torch.empty(2, sum(self.widths), width).uniform_(-bound, bound)
        self.gate, self.up = (nn.Parameter(weight_FD.clone()) for weight_FD in gate_up_2FD)
        self.down = nn.Parameter(torch.zeros(width, sum(self.widths)))

    def forward(
        self, x_TD: Tensor, routing: Routing, replayed_TE: Tensor | None = None
    ) -> tuple[Tensor, Choice]:
        choice = self.router(x_TD, routing, replayed_TE)
        return self.mix(x_TD, choice.weight_TE), choice

    def mix(self, x_TD: Tensor, weight_TE: Tensor) -> Tensor:
        """Return the weighted sum of the experts' outputs; the trainer may spread it over ranks."""
        return mixed(x_TD, weight_TE, self.widths, (self.gate, self.up, self.down))


def mixed(
    x_TD: Tensor, weight_TE: Tensor, widths: list[int], columns: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Return the weighted sum of the outputs of experts of these widths.

    `columns` are their gate_FD, up_FD and down_DF. On a GPU all tokens pass all columns, in three
    large products and without waiting to know who was chosen; elsewhere each expert computes its
    own tokens.
    """
    gate_FD, up_FD, down_DF = columns
    if x_TD.is_cuda:
        return mixed_columns(x_TD, by_column(weight_TE, widths), gate_FD, up_FD, down_DF)
    each = zip(
        gate_FD.split(widths), up_FD.split(widths), down_DF.split(widths, dim=1), strict=True
    )
    return dispatched(
        x_TD,
        weight_TE,
        [partial(mixed_columns, gate_FD=gate, up_FD=up, down_DF=down) for gate, up, down in each],
    )


def dispatched(
    x_TD: Tensor, weight_TE: Tensor, experts: Sequence[Callable[[Tensor, Tensor], Tensor]]
) -> Tensor:
    """Give each expert its own tokens (n, D) and their weights (n, 1); add up what they return."""
    expert_N, row_N = weight_TE.t().nonzero().unbind(1)
    counts = torch.bincount(expert_N, minlength=len(experts)).tolist()
    # Indexing by two tensors would sum gradients in an order that changes from run to run.
    weight_N = weight_TE.flatten().index_select(0, row_N * len(experts) + expert_N)
    pieces = zip(
        experts,
        x_TD.index_select(0, row_N).split(counts),
        weight_N[:, None].split(counts),
        strict=True,
    )
    mine = [expert(x_nD, weight_n1) for expert, x_nD, weight_n1 in pieces if len(x_nD)]
    if not mine:  # there is no token
        return torch.zeros_like(x_TD)
    return torch.zeros_like(x_TD).index_add(0, row_N, torch.cat(mine))


def by_column(weight_TE: Tensor, widths: list[int]) -> Tensor:
    """Return each column's weight, from those of experts of these widths."""
    widths_E = torch.tensor(widths, device=weight_TE.device)
    return weight_TE.repeat_interleave(widths_E, dim=1, output_size=sum(widths))


def mixed_columns(
    x_TD: Tensor, weight_TF: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor
) -> Tensor:
    """Return the SwiGLU of some columns, each times its weight."""
    hidden_TF = silu(linear(x_TD, gate_FD)) * linear(x_TD, up_FD)
    return linear(hidden_TF * weight_TF.to(x_TD.dtype), down_DF)
