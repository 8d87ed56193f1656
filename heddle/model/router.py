"""The routing fabric: a gate over clusters at layer 0, and each layer's choice of experts.

The gate reads a token and a running mean of its past, causally; the distribution that it gives
biases every layer's choice. Sources: context-level pools make clusters mean something, EMO
(arXiv:2605.06663); selection biased for balance with weights that never see the bias, DeepSeek-V3
(arXiv:2408.15664); a price on wide experts, HMoE (arXiv:2408.10681).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from heddle.model.config import CLUSTERS, FabricConfig
from heddle.model.memory import Memory

EPSILON = 1e-4  # keeps the logarithm of a cluster's share finite


class Routing(NamedTuple):
    """What the gate and the request say about each token; the same for all layers and loops.

    `log_prior_TE` is the logarithm of the share of each expert's cluster; `bias_TE` is what is
    added to the logits: the request's steering, less the price of wide experts.
    """

    cluster_TG: Tensor
    log_prior_TE: Tensor
    bias_TE: Tensor

    def rows(self, rows: Tensor) -> "Routing":
        """Return the routing of some tokens."""
        return Routing(*(part.index_select(0, rows) for part in self))


class Choice(NamedTuple):
    """A layer's router: experts' logits and probabilities, mixing weights, 0 if not chosen.

    Of layers that ran as one it is what all of them chose, (layers, tokens, experts), and may have
    the widths of a token's experts added up.
    """

    logits_TE: Tensor
    probability_TE: Tensor
    weight_TE: Tensor
    channels_T1: Tensor | None = None


class Gate(nn.Module):
    """From embeddings to each token's distribution over the clusters."""

    cluster_E: Tensor
    price_E: Tensor

    def __init__(self, fabric: FabricConfig, *, width: int):
        super().__init__()
        self.decay, self.temperature = fabric.decay, fabric.temperature
        self.register_buffer("cluster_E", cluster_of_experts(fabric), persistent=False)
        price_E = fabric.cost_weight * cost_of_experts(fabric)
        self.register_buffer("price_E", price_E, persistent=False)
        self.norm = nn.RMSNorm(width)
        self.context = nn.Linear(width, fabric.context_width, bias=False)
        self.clusters = nn.Linear(width + fabric.context_width, len(CLUSTERS))

    def forward(self, x_TD: Tensor, memory: Memory) -> Tensor:
        x_TD = self.norm(x_TD)
        context_TJ = memory.running_mean(self.context(x_TD), decay=self.decay)
        logits_TG = self.clusters(torch.cat([x_TD, context_TJ], dim=-1)).float()
        return (logits_TG / self.temperature).softmax(-1)

    def routing(self, cluster_TG: Tensor, steer_TG: Tensor | None) -> Routing:
        """Return what routers are told of tokens with these shares of the clusters."""
        log_prior_TE = (cluster_TG + EPSILON).log()[:, self.cluster_E]
        bias_TE = -self.price_E.expand_as(log_prior_TE)
        if steer_TG is not None:
            bias_TE = bias_TE + steer_TG[:, self.cluster_E]
        return Routing(cluster_TG, log_prior_TE, bias_TE)


class Router(nn.Module):
    """One layer's choice of at most `max_experts` experts a token.

    `balance_E` steers selection alone; the trainer moves it towards equal use of a cluster's
    experts over the global batch.
    """

    cluster_E: Tensor
    balance_E: Tensor

    def __init__(self, fabric: FabricConfig, *, width: int):
        super().__init__()
        self.mass, num_experts = fabric.mass, len(fabric.experts)
        self.num_chosen = min(fabric.max_experts, num_experts)
        self.scores = nn.Linear(width, num_experts, bias=False)
        self.prior = nn.Parameter(torch.full((1,), fabric.prior_strength))
        self.register_buffer("cluster_E", cluster_of_experts(fabric), persistent=False)
        self.register_buffer("balance_E", torch.zeros(num_experts))

    def forward(self, x_TD: Tensor, routing: Routing, replayed_TE: Tensor | None = None) -> Choice:
        scores_TE = self.scores(x_TD).float() + routing.bias_TE
        logits_TE = torch.addcmul(scores_TE, self.prior.float(), routing.log_prior_TE)
        probability_TE = logits_TE.softmax(-1)
        chosen_TE = self._chosen(probability_TE.detach()) if replayed_TE is None else replayed_TE
        weight_TE = probability_TE * chosen_TE
        return Choice(logits_TE, probability_TE, weight_TE / weight_TE.sum(-1, keepdim=True))

    def _chosen(self, probability_TE: Tensor) -> Tensor:
        """Mark each token's best experts with 1, as few as hold `mass` of the probability."""
        rank_TE = (probability_TE + self.balance_E).masked_fill(probability_TE == 0, -torch.inf)
        best_Tk = rank_TE.topk(self.num_chosen, dim=-1).indices
        best_probability_Tk = probability_TE.gather(-1, best_Tk)
        mass_before_Tk = best_probability_Tk.cumsum(-1) - best_probability_Tk
        taken_Tk = (mass_before_Tk < self.mass).to(probability_TE.dtype)
        return torch.zeros_like(probability_TE).scatter(-1, best_Tk, taken_Tk)


def cluster_of_experts(fabric: FabricConfig) -> Tensor:
    """Return each expert's cluster. A value, no weight: on the CPU even in a network on meta."""
    return torch.tensor([expert.cluster for expert in fabric.experts], device="cpu")


def cost_of_experts(fabric: FabricConfig) -> Tensor:
    """Return each expert's width as a share of the widest one's."""
    widths_E = torch.tensor([float(expert.width) for expert in fabric.experts], device="cpu")
    return widths_E / widths_E.max().clamp(min=1)
