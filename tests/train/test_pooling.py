from dataclasses import replace

import pytest
import torch

from heddle.errors import ConfigError
from heddle.model.config import MemoryConfig, Tier
from heddle.train.initial import train_only
from heddle.train.pooling import Pooling, pooling_loss
from tests.train.routed import CONFIG, routed_batch, routed_model

MEMORY = MemoryConfig(block_tokens=8, sink_tokens=1, window_blocks=1, tiers=(Tier(4, None),))
MODEL = replace(CONFIG, memory=MEMORY, think=replace(CONFIG.think, block_tokens=8))


def long_batch():
    """Return the small batch's 36 tokens as one sequence, five blocks long."""
    batch = routed_batch()
    num_tokens = len(batch.token_T)
    return batch._replace(position_T=torch.arange(num_tokens), bounds_S1=(0, num_tokens))


@pytest.mark.parametrize(("weight", "falls"), [(0.0, "divergence"), (100.0, "output_error")])
def test_poolers_learn_what_is_weighed_and_nothing_else_trains(weight, falls):
    model, batch = routed_model(MODEL), long_batch()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".pool." in name:
                parameter.zero_()
    train_only(model, ("*.attention.pool.*",))
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(60):
        loss = Pooling(output_error=weight).loss(model, batch, 0.0)
        optimiser.zero_grad()
        loss.mean.backward()
        optimiser.step()
        losses.append(loss)
    assert losses[-1].metrics[falls] < 0.8 * losses[0].metrics[falls]
    assert losses[0].weight == 36 - 8
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    poolers = [name for name in before if ".pool." in name]
    assert changed == set(poolers) and len(poolers) == 2 * 4


def test_short_sequences_need_no_slot_and_give_gradients_of_zero():
    model = routed_model(MODEL)
    train_only(model, ("*.attention.pool.*",))
    batch = routed_batch()
    short = batch._replace(position_T=torch.arange(36) % 6, bounds_S1=tuple(range(0, 37, 6)))
    loss = pooling_loss(model, short, output_error=0.1)
    assert loss.weight == 0 and loss.mean == 0 and loss.metrics["output_error"] < 1e-10
    loss.mean.backward()
    poolers = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and not p.grad.any() for p in poolers)


def test_a_network_without_summaries_is_refused():
    with pytest.raises(ConfigError, match="no summaries to train: give the run a memory"):
        pooling_loss(routed_model(), routed_batch(), output_error=0.1)
