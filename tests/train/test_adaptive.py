"""Every term's gradient reaches what it should and only that; balance evens out; figures add up."""

import json
from dataclasses import replace
from itertools import repeat

import pytest
import torch

from heddle.errors import ConfigError
from heddle.model.batch import Trace
from heddle.model.router import Choice, Gate, Router, cost_of_experts
from heddle.train.adaptive import (
    Auxiliary,
    adaptive_figures,
    auxiliary_terms,
    balance_routers,
    routers,
)
from heddle.train.forward import exact_depth, packed_batch
from heddle.train.pretrain import next_token_loss
from tests.train.routed import CONFIG, reached, routed_batch, routed_model, routed_run
from tests.train.small import train


def forward(model, batch, *, loops=3):
    return model(packed_batch(batch, exact_depth(loops, len(batch.token_T))))


def parts_reached(term: str, *, loops: int = 3) -> set[str]:
    """Return the parts of the network that a term's gradient reaches, layers by their number."""
    model, batch = routed_model(), routed_batch()
    auxiliary_terms(CONFIG, forward(model, batch, loops=loops).trace, batch.cluster_T)[
        term
    ].backward()
    names = reached(model)
    return {
        ".".join(name.split(".")[:2]) if name.startswith(("layers", "think")) else name
        for name in names
    }


def test_naming_the_cluster_trains_the_gate_and_the_embedding_alone():
    reached_parts = parts_reached("cluster")
    assert {part.split(".")[0] for part in reached_parts} == {"gate", "embed"}
    assert len([part for part in reached_parts if part.startswith("gate")]) == 4


@pytest.mark.parametrize("term", ["cost", "balance", "router_z"])
def test_terms_of_the_routers_reach_every_router_and_what_feeds_it(term):
    model, batch = routed_model(), routed_batch()
    auxiliary_terms(CONFIG, forward(model, batch).trace, batch.cluster_T)[term].backward()
    names = reached(model)
    assert {f"layers.{i}.experts.router.scores.weight" for i in range(4)} <= names
    assert "think.mix.up.weight" in names and "gate.clusters.weight" in names
    assert not {name for name in names if name.startswith(("norm", "head"))}
    last = "layers.3."  # what comes after the last router has no part in it
    assert not names & {f"{last}ffn.down.weight", f"{last}experts.down", f"{last}experts.gate"}


@pytest.mark.parametrize("term", ["norm_drift", "last_change"])
def test_terms_of_the_loops_stop_at_the_end_of_the_block(term):
    names = parts_reached(term)
    assert {"layers.1", "layers.2", "think.mix", "think.step", "think.gate", "think.loras"} <= names
    assert not {"layers.3", "think.read", "norm.weight"} & names


@pytest.mark.parametrize("term", ["norm_drift", "last_change"])
def test_one_loop_costs_nothing(term):
    model, batch = routed_model(), routed_batch()
    terms = auxiliary_terms(CONFIG, forward(model, batch, loops=1).trace, batch.cluster_T)
    assert terms[term] == 0
    terms[term].backward()
    assert not reached(model)


def test_the_cost_of_equal_experts_is_their_sum_and_spreading_is_not_cheap():
    costs = cost_of_experts(CONFIG.fabric)

    def cost(probability_E):
        choice = Choice(probability_E.log()[None], probability_E[None], probability_E[None])
        trace = Trace(cluster_TG=torch.full((1, 5), 0.2), choices=(choice,) * 4)
        return auxiliary_terms(CONFIG, trace, torch.zeros(1, dtype=torch.long))["cost"]

    for number in (1, 2, 3):
        equal = torch.zeros(len(costs))
        equal[:number] = 1 / number
        assert torch.allclose(cost(equal), costs[:number].sum(), rtol=1e-4)
    wide, narrow = costs.argmax(), costs.argmin()
    sharp, spread = torch.zeros(2, len(costs))
    sharp[wide], spread[wide], spread[narrow] = 1.0, 0.75, 0.25
    assert spread @ costs < sharp @ costs < cost(spread)


def test_loop_terms_are_their_formulas():
    one_block = replace(CONFIG, think=replace(CONFIG.think, block_tokens=64))
    model, batch = routed_model(one_block), routed_batch()
    states = [forward(model, batch, loops=loops).trace.states.last_TD for loops in (1, 2, 3)]
    terms = auxiliary_terms(CONFIG, forward(model, batch).trace, batch.cluster_T)
    length = [state.norm(dim=-1) for state in states]
    assert torch.allclose(terms["norm_drift"], (length[2] / length[0] - 1).square().mean())
    change = (states[2] - states[1]).norm(dim=-1) / length[2]
    assert torch.allclose(terms["last_change"], change.square().mean())


def test_tokens_without_a_cluster_teach_the_gate_nothing():
    model, batch = routed_model(), routed_batch(cluster=-1)
    terms = auxiliary_terms(CONFIG, forward(model, batch).trace, batch.cluster_T)
    assert terms["cluster"] == 0
    batch.cluster_T[3] = 2
    trace = forward(model, batch).trace
    loss = auxiliary_terms(CONFIG, trace, batch.cluster_T)["cluster"]
    assert torch.allclose(loss, -trace.cluster_TG[3, 2].log())


def test_the_balance_loss_is_one_when_even_and_falls_towards_it():
    model, batch = routed_model(), routed_batch()
    optimiser = torch.optim.Adam([router.scores.weight for router in routers(model)], lr=0.01)
    losses = []
    for _ in range(60):
        term = auxiliary_terms(CONFIG, forward(model, batch).trace, batch.cluster_T)["balance"]
        optimiser.zero_grad()
        term.backward()
        optimiser.step()
        losses.append(term.item())
    assert losses[0] > 1.05 and min(losses[-10:]) < 1 + (losses[0] - 1) / 2


def test_selection_bias_evens_out_a_skewed_router():
    """Two of a cluster's experts are never chosen at first; weights never see the bias."""
    torch.manual_seed(0)
    router, x = Router(CONFIG.fabric, width=32), 0.3 * torch.randn(400, 32)
    with torch.no_grad():
        router.scores.weight[0] += 0.5 * x.mean(0).sign()
    clusters = torch.tensor([0.6, 0.2, 0.2, 1e-6, 1e-6]).expand(400, 5)
    routing = Gate(CONFIG.fabric, width=32).routing(clusters, None)
    with torch.no_grad():
        router.scores.weight[1:3] -= 2 * router.scores.weight[1:3].abs()
        router.prior.fill_(1.0)
    before = load(router, x, routing)
    holder = torch.nn.ModuleList([router])
    for _ in range(400):
        metrics = {"expert_load": load(router, x, routing)[None], "cluster_share": clusters.mean(0)}
        balance_routers(holder, metrics, rate=2e-3)
    after = load(router, x, routing)
    due = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.2])
    assert (before - due).abs().max() > 0.1
    assert (after - due).abs().max() < 0.5 * (before - due).abs().max()


def load(router, x, routing):
    chosen = (router(x, routing).weight_TE > 0).float().sum(0)
    return chosen / chosen.sum()


def test_figures_count_every_loop_for_the_layer_it_is_of():
    model, batch = routed_model(), routed_batch()
    trace = forward(model, batch, loops=3).trace
    figures = adaptive_figures(CONFIG, trace, batch.cluster_T)
    load_LE = figures["expert_load"]
    assert load_LE.shape == (4, 5) and torch.allclose(load_LE.sum(-1), torch.ones(4))
    # In the order of computation: layer 0; 1, 2 three times; 3.
    chosen = [(choice.weight_TE > 0).float().sum(0) for choice in trace.choices]
    expected = chosen[1] + chosen[3] + chosen[5]
    assert torch.allclose(load_LE[1], expected / expected.sum())
    assert torch.allclose(load_LE[3], chosen[7] / chosen[7].sum())
    assert figures["mean_loops"] == 3
    assert torch.allclose(figures["cluster_share"], trace.cluster_TG.mean(0))
    right = (trace.cluster_TG.argmax(-1) == 1).float().mean()
    assert torch.allclose(figures["cluster_accuracy"], right)


def test_the_loss_is_cross_entropy_and_the_weighted_terms_and_alone_in_evaluation():
    model, batch = routed_model(), routed_batch()
    depth = exact_depth(2, len(batch.token_T))
    weights = Auxiliary(cluster=0.4, last_cluster=0.2)
    loss = next_token_loss(model, batch, auxiliary=weights, depth=depth, progress=0.5, z_loss=0.0)
    metrics = loss.metrics
    expected = metrics["cross_entropy"] + 0.3 * metrics["cluster_loss"]
    for name in ("cost", "balance", "router_z", "norm_drift", "last_change"):
        expected = expected + getattr(weights, name) * metrics[f"{name}_loss"]
    assert torch.allclose(loss.mean, expected)
    held_out = next_token_loss(model.eval(), batch, auxiliary=weights, depth=depth)
    assert held_out.mean == held_out.metrics["cross_entropy"]


def test_useful_work_grows_with_loops():
    model, batch = routed_model(), routed_batch()
    flops = [
        next_token_loss(model, batch, depth=exact_depth(loops, len(batch.token_T))).flops
        for loops in (1, 2, 3)
    ]
    assert flops[2] - flops[1] == pytest.approx(flops[1] - flops[0], rel=0.1)
    assert flops[0] < flops[1] < 2 * flops[0]


def test_gradients_flow_through_the_last_loops_alone():
    model, batch = routed_model(), routed_batch()
    num_tokens = len(batch.token_T)
    whole, cut = (
        model(packed_batch(batch, exact_depth(4, num_tokens, backprop_loops=loops)))
        for loops in (None, 2)
    )
    assert torch.equal(whole.hidden_TD, cut.hidden_TD)
    cut.hidden_TD.square().sum().backward()
    step = model.think.step.grad  # a row for each of loops 2, 3, 4
    assert not step[0].any() and step[1].any() and step[2].any()
    assert model.layers[0].ffn.down.weight.grad.any(), "the prelude is mixed in again"


def test_one_batch_is_learnt_by_heart_through_experts_and_loops(tmp_path):
    run = routed_run(tmp_path, num_steps=120, num_microbatches=1)
    stage = run.objective.stage(None)
    first = next(stage.batches(None, rank=0, num_ranks=1))
    train(run, stage=replace(stage, batches=lambda cursor, **_: repeat(first)))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["cross_entropy"] > 4 and lines[-1]["cross_entropy"] < 0.2
    assert lines[-1]["cluster_loss"] < 0.5 * lines[0]["cluster_loss"]
    assert lines[-1]["cluster_accuracy"] == 1
    assert {line["mean_loops"] for line in lines} > {1.0, 2.0, 3.0}


def test_a_negative_weight_is_refused():
    with pytest.raises(ConfigError, match="auxiliary cost must not be negative"):
        Auxiliary(cost=-1.0)
