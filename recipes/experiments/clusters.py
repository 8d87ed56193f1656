"""Do clusters mean what they are called, and does a price on experts save work?

    python -m recipes.experiments.clusters

Each of five clusters is taken away from a trained network, and the loss on each of five domains
measured (the causal proof that anchors a cluster to a domain, after EMO, arXiv:2605.06663). The
same networks, trained with a price on wide experts (HMoE, arXiv:2408.10681), show what it saves.
docs/experiments/clusters.md says what was found.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from heddle.model.config import CLUSTERS, FabricConfig, ModelConfig
from heddle.model.layers import Layer
from heddle.model.presets import NANO, cluster_experts
from heddle.model.router import cost_of_experts
from heddle.model.transformer import Transformer
from heddle.train.adaptive import Auxiliary, routers
from recipes.experiments.cluster_tables import (
    damage_panel,
    matrix_table,
    price_panel,
    price_table,
    ratio_table,
    reading_table,
    verdict_table,
)
from recipes.experiments.domain_training import Held, Training, held_out, losses, read
from recipes.experiments.experiment import Experiment, Figures, run

# NANO at half its width and a quarter of its depth: the same shared feed-forward and the same
# experts in proportion. Documents of 64 tokens need no memory, and nothing here loops.
SMALL = replace(
    NANO,
    vocab_size=256,
    width=64,
    num_layers=2,
    head_width=16,
    ffn_width=64,
    context_length=64,
    fabric=FabricConfig(experts=cluster_experts(24)),
    think=None,
    memory=None,
)
LABELS = Training(model=SMALL, num_steps=1600)
ARMS = {
    "labels": LABELS,
    "shuffled": replace(LABELS, has_true_labels=False),
    "no-prior": replace(LABELS, has_prior=False),
}
# A second stage begins with the weights that the first one leaves. Balance wants all experts of a
# cluster equally often, wide ones too, so that a price can only be seen to work without it.
SECOND = replace(
    LABELS, num_steps=400, optimiser=replace(LABELS.optimiser, learning_rate=5e-3), stage=1
)
STAGES = {"balanced": Auxiliary(cost=0.0)} | {
    f"price {price:g}": Auxiliary(cost=price, balance=0.0, balance_rate=0.0)
    for price in (0.0, 0.01, 0.03, 0.1)
}
PRICES_AFTERWARDS = (1.0, 2.0, 4.0)  # subtracted from a trained network's logits, for the widest
LONGER = 5  # times the steps, in the long form

Columns = tuple[Tensor, Tensor | slice]  # a matrix and some of its columns


def trial(arm: str, seed: int, full: bool, folder: Path) -> Figures:
    """Train an arm's network and take its parts away, one after the other."""
    model = _of_form(ARMS[arm], full).trained(seed, folder)
    figures = _measured(model)
    if arm == "labels":
        second = partial(_second_stage, model, seed, full, folder)
        figures["second"] = {name: second(name) for name in STAGES}
    return figures


def _second_stage(model: Transformer, seed: int, full: bool, folder: Path, name: str) -> Figures:
    """Train a copy of a network on and measure it."""
    copied, auxiliary = deepcopy(model).train(), STAGES[name]
    if not auxiliary.balance_rate:
        for router in routers(copied):
            router.balance_E.zero_()
    training = _of_form(replace(SECOND, auxiliary=auxiliary), full)
    figures = _measured(training.trained(seed, folder / name, copied))
    figures["afterwards"] = [_readings_at(copied, price) for price in PRICES_AFTERWARDS]
    return figures


def _readings_at(model: Transformer, price: float) -> Figures:
    with priced(model, price):
        return _readings(model)


def _of_form(training: Training, full: bool) -> Training:
    return replace(training, num_steps=training.num_steps * (LONGER if full else 1))


def _measured(model: Transformer) -> Figures:
    validation, test = held_out("validation"), held_out("test")
    return {
        "validation_loss": fmean(losses(model, validation)),
        "test": _readings(model),
        **knock_outs(model, test),
    }


def _readings(model: Transformer) -> Figures:
    return {name: reading._asdict() for name, reading in read(model, held_out("test")).items()}


def knock_outs(model: Transformer, held: Mapping[str, Held]) -> Figures:
    """Return what each domain loses without each cluster, by three ways to take it away.

    `steered`: no token can choose it, others of its experts' rank take over. `silent`: it is chosen
    but its channels give nothing. `random`: as many channels of all experts, at random, give
    nothing. And what is lost without any expert, and without the shared feed-forward.
    """
    untouched = losses(model, held)
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    experts = [layer.experts.down for layer in layers if layer.experts]
    shared = [layer.ffn.down.weight for layer in layers]
    clusters = range(len(CLUSTERS))

    def added(found: Sequence[float]) -> list[float]:
        return [after - before for after, before in zip(found, untouched, strict=True)]

    def silent(columns: Sequence[Columns]) -> list[float]:
        with zeroed(columns):
            return added(losses(model, held))

    own, random = [], []
    generator = torch.Generator().manual_seed(0)
    for cluster in clusters:
        columns = columns_of(model.config, cluster)
        own.append(silent([(down, columns) for down in experts]))
        drawn = [torch.randperm(down.shape[1], generator=generator) for down in experts]
        places = [order[: len(columns)] for order in drawn]
        random.append(silent(list(zip(experts, places, strict=True))))
    return {
        "steered": [added(losses(model, held, without=cluster)) for cluster in clusters],
        "silent": own,
        "random": random,
        "no_experts": silent([(down, slice(None)) for down in experts]),
        "no_shared": silent([(down, slice(None)) for down in shared]),
    }


def columns_of(config: ModelConfig, cluster: int) -> Tensor:
    """Return which columns of a layer's experts are a cluster's."""
    assert config.fabric is not None
    owner_F = [expert.cluster for expert in config.fabric.experts for _ in range(expert.width)]
    return (torch.tensor(owner_F) == cluster).nonzero()[:, 0]


@contextmanager
def zeroed(columns: Sequence[Columns]) -> Iterator[None]:
    """Set some columns of some matrices to zero for a while."""
    kept = [matrix.detach().clone() for matrix, _ in columns]
    with torch.no_grad():
        for matrix, places in columns:
            matrix[:, places] = 0
        try:
            yield
        finally:
            for (matrix, _), before in zip(columns, kept, strict=True):
                matrix.copy_(before)


@contextmanager
def priced(model: Transformer, price: float) -> Iterator[None]:
    """Put a price on wide experts, as `FabricConfig.cost_weight` does, for a while."""
    assert model.gate is not None and model.config.fabric is not None
    kept = model.gate.price_E
    model.gate.price_E = price * cost_of_experts(model.config.fabric)
    try:
        yield
    finally:
        model.gate.price_E = kept


EXPERIMENT = Experiment(
    name="clusters",
    title="Clusters: what each one is for, and what a price on experts saves",
    arms={arm: partial(trial, arm) for arm in ARMS},
    tables=lambda found: [
        matrix_table(found, "labels"),
        ratio_table(
            found,
            [
                *((arm, "steered") for arm in ("labels", "shuffled", "no-prior")),
                ("labels", "silent"),
                ("labels", "random"),
            ],
        ),
        reading_table(found, "labels"),
        price_table(found),
        verdict_table(found),
    ],
    panels=lambda found: [
        damage_panel(found, "labels"),
        damage_panel(found, "shuffled"),
        price_panel(found),
    ],
)

if __name__ == "__main__":
    run(EXPERIMENT)
