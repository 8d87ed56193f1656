from dataclasses import replace

import pytest
import torch
from torch.nn.functional import kl_div

from heddle.errors import ConfigError
from heddle.model.transformer import Transformer
from heddle.train.forward import exact_depth, packed_batch
from heddle.train.halting import Halting
from heddle.train.initial import train_only
from tests.train.routed import routed_batch, routed_model


def readings(model, batch, loops):
    out = model(packed_batch(batch, exact_depth(loops, len(batch.token_T))))
    return out.trace, model.head(out.hidden_TD).log_softmax(-1)


@pytest.mark.parametrize("hard", ["wrong", "changed"])
def test_targets_are_what_the_depths_say(hard):
    model, batch = routed_model().eval(), routed_batch()
    rows = batch.target_T >= 0
    with torch.no_grad():
        (_, p_1), (second, p_2), (fourth, p_4) = (
            readings(model, batch, loops) for loops in (1, 2, 4)
        )

    def change(p):  # KL(p_4 || p)
        return kl_div(p, p_4, reduction="none", log_target=True).sum(-1)[rows]

    epsilon = change(p_2).median().item() * 1.0001
    loss = Halting(most_loops=4, epsilon=epsilon, hard=hard).loss_at(model, batch, [2])
    wrong = (p_1.argmax(-1) != batch.target_T)[rows].float()
    is_hard = wrong if hard == "wrong" else (change(p_1) >= epsilon).float()
    settled = (change(p_2) < epsilon).float()
    assert 0.3 < settled.mean() < 0.7
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = bce(fourth.hard_logit_T[rows], is_hard) + bce(second.settled_logit_T[rows], settled)
    assert torch.allclose(loss.mean, expected, atol=1e-5)
    assert torch.allclose(loss.metrics["hard_share"], is_hard.mean())
    assert torch.allclose(loss.metrics["settled_share"], settled.mean())
    right = ((second.settled_logit_T[rows] > 0) == (settled > 0)).float().mean()
    assert torch.allclose(loss.metrics["settled_accuracy"], right)


def test_what_stands_right_before_a_hard_token_is_hard_too():
    model, batch = routed_model().eval(), routed_batch()
    with torch.no_grad():
        said_T = model.head(model(packed_batch(batch)).hidden_TD).argmax(-1)
    batch = batch._replace(target_T=said_T)  # all is right
    first, second = batch.bounds_S1[1:3]
    for place in (first - 1, first, second - 1):  # the ends of two sequences, a beginning
        batch.target_T[place] += 1
    for reach, num_hard in ((0, 3), (2, 3 + 2 + 2)):
        loss = Halting(most_loops=2, reach=reach).loss_at(model, batch, [1])
        share = num_hard / len(batch.token_T)
        assert loss.metrics["hard_share"].item() == pytest.approx(share)


def test_caution_makes_tokens_think_that_may_have_to():
    model = routed_model()
    train_only(model, ("think.read*",))
    batch = routed_batch()
    with torch.no_grad():
        said_T = model.head(model(packed_batch(batch)).hidden_TD).argmax(-1)
    batch = batch._replace(target_T=said_T)  # all is right
    wrong = batch._replace(target_T=said_T + 1)  # all is wrong; nothing tells the two apart
    for caution, thinks in ((0.1, False), (10.0, True)):
        optimiser = torch.optim.Adam(model.think.read.parameters(), lr=0.1)
        for _ in range(40):
            losses = [
                Halting(most_loops=2, caution=caution).loss_at(model, each, [1])
                for each in (batch, wrong)
            ]
            optimiser.zero_grad()
            (losses[0].mean + losses[1].mean).backward()
            optimiser.step()
        is_hard_T = model(packed_batch(batch)).trace.hard_logit_T > 0
        assert is_hard_T.float().mean() == thinks


def test_it_learns_both_readings_and_nothing_else():
    model, batch = routed_model(), routed_batch()
    with torch.no_grad():  # half the tokens are easy
        first = model.head(model(packed_batch(batch)).hidden_TD).argmax(-1)
    batch.target_T[::2] = first[::2]
    train_only(model, ("think.read*",))
    before = {name: p.clone() for name, p in model.named_parameters()}
    objective = Halting(most_loops=4, epsilon=0.05)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.03)
    for step in range(150):
        loss = objective.loss(model, batch, step / 150)
        optimiser.zero_grad()
        loss.mean.backward()
        optimiser.step()
    held_out = objective.loss(model.eval(), batch, 1.0)
    assert held_out.metrics["hard_accuracy"] > 0.95 and held_out.metrics["settled_accuracy"] > 0.8
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"think.read.weight", "think.read.bias", "think.read_norm.weight"}


def test_no_graph_is_kept_of_the_frozen_network():
    model, batch = routed_model(), routed_batch()
    train_only(model, ("think.read*",))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        Halting().loss_at(model, batch, [3])
    states = len(batch.token_T) * model.config.width
    assert sum(kept) < 30 * states  # a layer alone keeps as much


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"most_loops": 1}, "between 2 and 32"),
        ({"epsilon": 0.0}, "positive"),
        ({"reach": -1}, "negative"),
        ({"caution": 0.0}, "positive"),
    ],
)
def test_impossible_settings_are_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        Halting(**fields)


def test_more_loops_than_the_network_takes_are_refused():
    model = routed_model()
    assert model.config.think
    shallow = Transformer(replace(model.config, think=replace(model.config.think, max_loops=4)))
    with pytest.raises(ConfigError, match="5 loops are asked of a network that takes 4"):
        Halting(most_loops=5).loss(shallow, routed_batch(), 0.0)
