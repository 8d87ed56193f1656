"""What an adaptive network learns beside the next token: even and cheap routes, calm loops.

    L = CE + λ_c CE(cluster, label) + λ_$ exp(H(p)) Σ_e p_e cost_e + λ_b balance
           + λ_z (log Σ_e exp z_e)² + λ_n (|h_T| / |h_1| - 1)² + λ_d |h_T - h_{T-1}|² / |h_T|²

Balance has two hands: the loss above inside each cluster, of Switch's form, and `balance_routers`,
which moves the bias that steers selection alone. Called by every stage that predicts tokens.
Sources: a price on wide experts, HMoE (arXiv:2408.10681); balance, Switch (arXiv:2101.03961) and,
without a loss, DeepSeek-V3 (arXiv:2408.15664); the router's squared log-partition, ST-MoE
(arXiv:2202.08906). Cross entropy behind a normalisation does not see how long a state is, so that
nothing else keeps loops from growing it (arXiv:2606.24898).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss, one_hot

from heddle.errors import ConfigError
from heddle.model.batch import LoopStates, Trace
from heddle.model.config import CLUSTERS, FabricConfig, ModelConfig
from heddle.model.router import Choice, Router, cost_of_experts
from heddle.train.data.document import NO_CLUSTER

TINY = 1e-9  # keeps means over nothing at zero


@dataclass(frozen=True, kw_only=True)
class Auxiliary:
    """Weights of the terms beside the cross entropy; those that a network has no part for are 0.

    Attributes:
        cluster, last_cluster: of naming a token's cluster, at the run's start and at its end.
        cost: of the work that a router's probabilities amount to, in widest experts a token.
        balance: of uneven use of the experts of a cluster.
        router_z: of large router logits.
        norm_drift: of a state that later loops make longer or shorter.
        last_change: of what the last loop still changes.
        balance_rate: how far a step moves a router's selection bias; no part of the loss.
    """

    cluster: float = 0.1
    last_cluster: float = 0.01
    cost: float = 1e-3
    balance: float = 1e-4
    router_z: float = 1e-3
    norm_drift: float = 1e-2
    last_change: float = 1e-3
    balance_rate: float = 1e-3

    def __post_init__(self):
        for name, weight in asdict(self).items():
            if weight < 0:
                raise ConfigError(f"auxiliary {name} must not be negative, not {weight}")

    def weight(self, term: str, progress: float) -> float:
        """Return a term's weight when a share of the run is done."""
        if term == "cluster":
            return self.cluster + (self.last_cluster - self.cluster) * progress
        return getattr(self, term)

    def of(
        self, config: ModelConfig, trace: Trace, cluster_T: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the terms of a forward, and what to tell of it."""
        terms = auxiliary_terms(config, trace, cluster_T)
        total = torch.zeros((), device=cluster_T.device)
        for name, term in terms.items():
            total = total + self.weight(name, progress) * term
        told = {f"{name}_loss": term.detach() for name, term in terms.items()}
        return total, told | adaptive_figures(config, trace, cluster_T)


USUAL = Auxiliary()


def auxiliary_terms(config: ModelConfig, trace: Trace, cluster_T: Tensor) -> dict[str, Tensor]:
    """Return the terms that a network has parts for, unweighted, by their names in `Auxiliary`."""
    terms = {}
    if config.fabric and trace.cluster_TG is not None:
        terms["cluster"] = _cluster_loss(trace.cluster_TG, cluster_T)
        terms |= _expert_terms(config, config.fabric, trace.choices)
    if trace.states and trace.loops_T is not None:
        terms |= _loop_terms(trace.states, trace.loops_T)
    return terms


@torch.no_grad()
def adaptive_figures(config: ModelConfig, trace: Trace, cluster_T: Tensor) -> dict[str, Tensor]:
    """Return what a run tells about routes and loops.

    `expert_load` (L, E) is each expert's share of a layer's choices, `cluster_share` (G) the gate's
    mean, `cluster_accuracy` the share of labelled tokens whose cluster the gate prefers (0 if none
    is labelled).
    """
    figures = {}
    if config.fabric and trace.cluster_TG is not None:
        chosen_LE, _ = _by_layer(config, trace.choices)
        figures["expert_load"] = chosen_LE / chosen_LE.sum(-1, keepdim=True)
        figures["cluster_share"] = trace.cluster_TG.mean(0)
        is_right_T = trace.cluster_TG.argmax(-1) == cluster_T
        num_labelled = (cluster_T != NO_CLUSTER).sum()
        figures["cluster_accuracy"] = is_right_T.sum() / num_labelled.clamp(min=1)
    if trace.loops_T is not None:
        figures["mean_loops"] = trace.loops_T.float().mean()
    return figures


def routers(model: nn.Module) -> list[Router]:
    """Return the routers of a network's layers, in their order."""
    return [module for module in model.modules() if isinstance(module, Router)]


@torch.no_grad()
def balance_routers(model: nn.Module, metrics: Mapping[str, Tensor], *, rate: float) -> None:
    """Move each router's selection bias towards experts that the global batch used too little.

    An expert's due is its cluster's share over the number of that cluster's experts.
    """
    for router, load_E in zip(routers(model), metrics.get("expert_load", ()), strict=True):
        size_G = torch.bincount(router.cluster_E, minlength=len(CLUSTERS))
        due_E = (metrics["cluster_share"] / size_G)[router.cluster_E]
        too_little_E = due_E / due_E.sum() - load_E
        router.balance_E += rate * too_little_E.sign().to(router.balance_E.dtype)


def _cluster_loss(cluster_TG: Tensor, cluster_T: Tensor) -> Tensor:
    """Return the mean cross entropy of the gate over tokens whose cluster is known."""
    log_share_TG = cluster_TG.clamp(min=TINY).log()
    total = nll_loss(log_share_TG, cluster_T, ignore_index=NO_CLUSTER, reduction="sum")
    return total / (cluster_T != NO_CLUSTER).sum().clamp(min=1)


def _expert_terms(
    config: ModelConfig, fabric: FabricConfig, choices: tuple[Choice, ...]
) -> dict[str, Tensor]:
    chosen_LE, probability_LE = _by_layer(config, choices)
    cost_E = cost_of_experts(fabric).to(probability_LE)
    partitions = torch.cat([choice.logits_TE.logsumexp(-1) for choice in choices])
    return {
        "cost": torch.cat([_expected_work(choice, cost_E) for choice in choices]).mean(),
        "balance": _imbalance(fabric, chosen_LE, probability_LE),
        "router_z": partitions.square().mean(),
    }


def _expected_work(choice: Choice, cost_E: Tensor) -> Tensor:
    """Return how many experts each token's distribution amounts to, times their mean cost.

    The mean cost alone falls when probability spreads to narrow experts, although each token then
    takes more experts until their mass suffices, the wide ones included. The exponential of the
    entropy counts them; sharp routing for few experts is of Huang et al. 2024 (arXiv:2403.07652).
    """
    probability_TE = choice.probability_TE
    num_experts_T = torch.special.entr(probability_TE.clamp(min=TINY)).sum(-1).exp()
    return num_experts_T * (probability_TE @ cost_E)


def _imbalance(fabric: FabricConfig, chosen_LE: Tensor, probability_LE: Tensor) -> Tensor:
    """Return Σ_c share_c n_c Σ_{e in c} f_e p_e, 1 when each cluster's experts are used alike.

    f and p are an expert's parts of its cluster's choices and of its probability.
    """
    clusters = torch.tensor([expert.cluster for expert in fabric.experts], device=chosen_LE.device)
    cluster_EG = one_hot(clusters, len(CLUSTERS)).to(chosen_LE.dtype)

    def of_cluster(value_LE: Tensor) -> Tensor:
        return value_LE @ cluster_EG @ cluster_EG.T

    size_E = cluster_EG.sum(0) @ cluster_EG.T
    f_LE = chosen_LE / of_cluster(chosen_LE).clamp(min=TINY)
    p_LE = probability_LE / of_cluster(probability_LE).clamp(min=TINY)
    share_LE = of_cluster(chosen_LE) / chosen_LE.sum(-1, keepdim=True)
    return (share_LE * size_E * f_LE * p_LE).sum(-1).mean()


def _loop_terms(states: LoopStates, loops_T: Tensor) -> dict[str, Tensor]:
    """Return how far later loops let states' lengths drift, and what the last loop changed."""
    is_looped_T = (loops_T > 1).float()
    num_looped = is_looped_T.sum().clamp(min=1)
    first_T, last_T = (
        state_TD.float().square().sum(-1).clamp(min=TINY)
        for state_TD in (states.first_TD, states.last_TD)
    )
    drift_T = ((last_T / first_T).sqrt() - 1).square()
    change_T = (states.last_TD - states.before_TD).float().square().sum(-1) / last_T
    return {
        "norm_drift": drift_T @ is_looped_T / num_looped,
        "last_change": change_T @ is_looped_T / num_looped,
    }


def _by_layer(config: ModelConfig, choices: tuple[Choice, ...]) -> tuple[Tensor, Tensor]:
    """Return how often each layer chose each expert, and their summed probability, (L, E)."""
    chosen_NE = torch.stack([(choice.weight_TE > 0).sum(0) for choice in choices]).float()
    probability_NE = torch.stack([choice.probability_TE.sum(0) for choice in choices])
    layer_N = torch.tensor(choice_layers(config, len(choices)), device=chosen_NE.device)
    empty_LE = chosen_NE.new_zeros(config.num_layers, chosen_NE.shape[1])
    return empty_LE.index_add(0, layer_N, chosen_NE), empty_LE.index_add(0, layer_N, probability_NE)


def choice_layers(config: ModelConfig, num_choices: int) -> list[int]:
    """Return the layer of each of a trace's choices, whose order is that of computation."""
    layers = list(range(config.num_layers))
    if config.think is None:
        return layers
    first, end = config.think.first_layer, config.think.first_layer + config.think.num_layers
    num_again = (num_choices - config.num_layers) // config.think.num_layers
    return layers[:end] + layers[first:end] * num_again + layers[end:]
