import pytest
import torch
from torch.nn.functional import kl_div

from heddle.errors import ConfigError
from heddle.train.forward import exact_depth, packed_batch
from heddle.train.halting import Halting, halting_loss
from heddle.train.initial import train_only
from tests.train.routed import routed_batch, routed_model


def readings(model, batch, loops):
    out = model(packed_batch(batch, exact_depth(loops, len(batch.token_T))))
    return out.trace, model.head(out.hidden_TD).log_softmax(-1)


def test_targets_are_what_the_depths_say():
    model, batch = routed_model().eval(), routed_batch()
    rows = batch.target_T >= 0
    with torch.no_grad():
        (first, p_1), (second, p_2), (_, p_3) = (
            readings(model, batch, loops) for loops in (1, 2, 3)
        )
    change = kl_div(p_2, p_3, reduction="none", log_target=True).sum(-1)[rows]  # KL(p_3 || p_2)
    epsilon = change.median().item() * 1.0001
    loss = halting_loss(model, batch, depths=[2], epsilon=epsilon)
    wrong = (p_1.argmax(-1) != batch.target_T)[rows].float()
    settled = (change < epsilon).float()
    assert 0.3 < settled.mean() < 0.7
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = bce(first.hard_logit_T[rows], wrong) + bce(second.settled_logit_T[rows], settled)
    assert torch.allclose(loss.mean, expected, atol=1e-5)
    assert torch.allclose(loss.metrics["settled_share"], settled.mean())
    right = ((second.settled_logit_T[rows] > 0) == (settled > 0)).float().mean()
    assert torch.allclose(loss.metrics["settled_accuracy"], right)


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
        halting_loss(model, batch, depths=[3], epsilon=0.01)
    states = len(batch.token_T) * model.config.width
    assert sum(kept) < 30 * states  # a layer alone keeps as much


@pytest.mark.parametrize(
    ("fields", "told"), [({"most_loops": 1}, "between 2 and 32"), ({"epsilon": 0.0}, "positive")]
)
def test_impossible_settings_are_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        Halting(**fields)


def test_more_loops_than_the_network_takes_are_refused():
    with pytest.raises(ConfigError, match="33 loops are asked of a network that takes 32"):
        halting_loss(routed_model(), routed_batch(), depths=[32], epsilon=0.1)
