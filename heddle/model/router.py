"""The routing fabric: a gate over clusters at layer 0, and each layer's choice of experts.

The gate reads a token and a running mean of its past, causally; the distribution that it gives
biases every layer's choice. Sources: context-level pools make clusters mean something, EMO
(arXiv:2605.06663); selection biased for balance with weights that never see the bias, DeepSeek-V3
(arXiv:2408.15664); a price on wide experts, HMoE (arXiv:2408.10681).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from heddle.model.config import CLUSTERS, FabricConfig
from heddle.model.memory import Memory

EPSILON = 1e-4  # keeps the logarithm of a cluster's share finite


class Routing(NamedTuple):
    """What the gate and the request say about each token; the same for all layers and loops.

    `steer_TG` is added to the logits of a cluster's experts: 0 unless the request asks.
    """

    cluster_TG: Tensor
    steer_TG: Tensor

    def rows(self, rows: Tensor) -> "Routing":
        """Return the routing of some tokens."""
        return Routing(self.cluster_TG[rows], self.steer_TG[rows])


class Choice(NamedTuple):
    """A layer's router: every expert's probability, and mixing weights, 0 where not chosen.

    `log_partition_T` is the logarithm of what the probabilities were divided by.
    """

    probability_TE: Tensor
    weight_TE: Tensor
    log_partition_T: Tensor


class Gate(nn.Module):
    """From embeddings to each token's distribution over the clusters."""

    def __init__(self, fabric: FabricConfig, *, width: int):
        super().__init__()
        self.decay, self.temperature = fabric.decay, fabric.temperature
        self.norm = nn.RMSNorm(width)
        self.context = nn.Linear(width, fabric.context_width, bias=False)
        self.clusters = nn.Linear(width + fabric.context_width, len(CLUSTERS))

    def forward(self, x_TD: Tensor, memory: Memory) -> Tensor:
        x_TD = self.norm(x_TD)
        context_TJ = memory.running_mean(self.context(x_TD), decay=self.decay)
        logits_TG = self.clusters(torch.cat([x_TD, context_TJ], dim=-1)).float()
        return (logits_TG / self.temperature).softmax(-1)


class Router(nn.Module):
    """One layer's choice of at most `max_experts` experts a token.

    `balance_E` steers selection alone; the trainer moves it towards equal use of a cluster's
    experts over the global batch.
    """

    cluster_E: Tensor
    cost_E: Tensor
    balance_E: Tensor

    def __init__(self, fabric: FabricConfig, *, width: int):
        super().__init__()
        self.fabric = fabric
        self.norm = nn.RMSNorm(width)
        self.scores = nn.Linear(width, len(fabric.experts), bias=False)
        self.prior = nn.Parameter(torch.full((1,), fabric.prior_strength))
        # Values, not weights: on the CPU even while a network is built on the meta device.
        widths = torch.tensor([float(expert.width) for expert in fabric.experts], device="cpu")
        clusters = torch.tensor([expert.cluster for expert in fabric.experts], device="cpu")
        self.register_buffer("cluster_E", clusters, persistent=False)
        self.register_buffer("cost_E", widths / widths.max().clamp(min=1), persistent=False)
        self.register_buffer("balance_E", torch.zeros(len(fabric.experts)))

    def forward(self, x_TD: Tensor, routing: Routing, replayed_TE: Tensor | None = None) -> Choice:
        prior_TG = self.prior * (routing.cluster_TG + EPSILON).log() + routing.steer_TG
        logits_TE = self.scores(self.norm(x_TD)).float() + prior_TG[:, self.cluster_E]
        logits_TE = logits_TE - self.fabric.cost_weight * self.cost_E
        probability_TE = logits_TE.softmax(-1)
        chosen_TE = self._chosen(probability_TE.detach()) if replayed_TE is None else replayed_TE
        weight_TE = probability_TE * chosen_TE
        weight_TE = weight_TE / weight_TE.sum(-1, keepdim=True)
        return Choice(probability_TE, weight_TE, logits_TE.logsumexp(-1))

    def _chosen(self, probability_TE: Tensor) -> Tensor:
        """Mark each token's best experts, as few as hold `mass` of the probability."""
        num_chosen = min(self.fabric.max_experts, probability_TE.shape[-1])
        best_Tk = (probability_TE + self.balance_E).topk(num_chosen, dim=-1).indices
        best_probability_Tk = probability_TE.gather(-1, best_Tk)
        mass_before_Tk = best_probability_Tk.cumsum(-1) - best_probability_Tk
        taken_Tk = mass_before_Tk < self.fabric.mass
        marks_TkE = one_hot(best_Tk, probability_TE.shape[-1]) * taken_Tk[..., None]
        return marks_TkE.sum(1).to(probability_TE.dtype)
