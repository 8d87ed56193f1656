from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from heddle.errors import ConfigError, DataError
from heddle.train.curriculum import LoopCurriculum, think_again_loss
from heddle.train.depth import DepthSchedule
from heddle.train.forward import exact_depth, packed_batch
from heddle.train.initial import train_only
from tests.train.routed import reached, routed_batch, routed_model

LOOPS = ("think.mix*", "think.step", "think.gate.*", "think.loras.*")


def half_easy_batch(model):
    """Return a batch of which the model gets about half the targets right in its first loop."""
    batch = routed_batch()
    with torch.no_grad():
        first_TV = model.head(model(packed_batch(batch)).hidden_TD)
    target_T = batch.target_T.clone()
    is_easy = torch.arange(len(target_T)) % 2 == 0
    target_T[is_easy] = first_TV.argmax(-1)[is_easy]
    return batch._replace(target_T=target_T), first_TV


def test_hard_tokens_learn_the_next_token_and_easy_ones_their_first_loop():
    model = routed_model()
    batch, first_TV = half_easy_batch(model)
    depth = exact_depth(3, len(batch.token_T))
    logits_TV = model.head(model(packed_batch(batch, depth)).hidden_TD)
    rows = batch.target_T >= 0
    is_hard = first_TV.argmax(-1)[rows] != batch.target_T[rows]
    assert 0 < is_hard.sum() < rows.sum()
    loss_N = torch.where(
        is_hard,
        cross_entropy(logits_TV[rows], batch.target_T[rows], reduction="none"),
        kl_div(
            logits_TV[rows].log_softmax(-1),
            first_TV[rows].log_softmax(-1),
            reduction="none",
            log_target=True,
        ).sum(-1),
    )
    told = think_again_loss(model.eval(), batch, depth=depth)
    assert torch.allclose(told.mean, loss_N.mean(), atol=1e-5)
    assert torch.allclose(told.metrics["hard_share"], is_hard.float().mean())


def test_of_a_kept_cluster_every_token_is_easy():
    model = routed_model().eval()
    batch, _ = half_easy_batch(model)
    batch = batch._replace(cluster_T=torch.arange(len(batch.token_T)) % 5)
    depth = exact_depth(3, len(batch.token_T))
    told, all_told = (
        think_again_loss(model, batch, depth=depth, kept=some) for some in ([3], range(5))
    )
    kept = batch._replace(weight_T=(batch.cluster_T == 3).float())
    assert think_again_loss(model, kept, depth=depth).metrics["hard_share"] > 0
    assert think_again_loss(model, kept, depth=depth, kept=[3]).metrics["hard_share"] == 0
    assert all_told.metrics["hard_share"] == 0 < told.metrics["hard_share"]
    assert torch.allclose(all_told.mean, all_told.metrics["easy_divergence"], atol=1e-5)


def test_an_unknown_cluster_to_keep_is_refused():
    with pytest.raises(DataError, match="cluster must be one of"):
        LoopCurriculum(keeps=("poetry",))


def test_it_lowers_its_loss_through_the_loops_alone():
    model = routed_model()
    train_only(model, LOOPS)
    batch, first_TV = half_easy_batch(model)
    schedule = DepthSchedule(kind="fixed", first_mean=3.0, least=2)
    objective = LoopCurriculum(depth=schedule)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser, means = torch.optim.Adam(trained, lr=0.01), []
    for _ in range(60):
        loss = objective.loss(model, batch, 0.5)
        optimiser.zero_grad()
        loss.mean.backward()
        optimiser.step()
        means.append(loss.mean.item())
    assert means[-1] < 0.4 * means[0]
    assert loss.metrics["cross_entropy"] < 0.6 * loss.metrics["first_cross_entropy"]
    names = {name for name, p in model.named_parameters() if p.grad is not None}
    assert names == {name for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        assert torch.equal(model.head(model(packed_batch(batch)).hidden_TD), first_TV)


def test_a_batch_without_targets_gives_gradients_of_zero():
    model, batch = routed_model(), routed_batch()
    batch.target_T.fill_(-100)
    loss = think_again_loss(model, batch, depth=exact_depth(2, len(batch.token_T)))
    (loss.mean * loss.weight).backward()
    assert loss.weight == 0 and not reached(model)


def test_one_loop_is_refused():
    with pytest.raises(ConfigError, match="needs two loops at least"):
        LoopCurriculum(depth=replace(DepthSchedule(), least=1))
