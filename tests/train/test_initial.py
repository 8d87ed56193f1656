from dataclasses import replace

import pytest
import torch

from heddle.errors import ConfigError
from heddle.model.config import MemoryConfig, RopeConfig
from heddle.train.initial import first_network, train_only
from heddle.train.trainee import Trainee
from heddle.weights.checkpoint import open_checkpoint
from tests.tiny import save_tiny
from tests.train.routed import Routed, routed_batch, routed_model, routed_run


def test_patterns_choose_what_trains():
    model = routed_model()
    train_only(model, ("gate.*", "*.experts.down"))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    gate = {name for name, _ in model.named_parameters() if name.startswith("gate.")}
    assert trained == gate | {f"layers.{i}.experts.down" for i in range(4)} and len(gate) == 4
    train_only(model, ())
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained


def test_a_pattern_that_matches_nothing_is_told_with_the_nearest_name():
    with pytest.raises(
        ConfigError, match=r"no parameter matches 'think.reed\*'; the nearest is 'think.read"
    ):
        train_only(routed_model(), ("gate.*", "think.reed*"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_parameters_have_no_gradient_master_or_optimiser_state(dtype, tmp_path):
    model = routed_model()
    train_only(model, ("*.experts.*",))
    trainee = Trainee(
        model,
        Routed().stage(None),
        optimiser=routed_run(tmp_path).optimiser,
        dtype=dtype,
        parallel="ddp",
        recompute=False,
        is_compiled=False,
    )
    before = {name: p.clone() for name, p in model.named_parameters()}
    trainee.learn(routed_batch(), progress=0.0)
    assert all((p.grad is None) for p in model.parameters() if not p.requires_grad)
    trainee.move(learning_rate=0.01, norm=trainee.gradient_norm(total_weight=1.0))
    experts = {name for name in before if ".experts." in name}
    kept = trainee.tensors()
    assert {name.partition(":")[0] for name in kept.optimiser} <= experts
    assert (
        experts
        <= kept.model.keys()
        <= experts | {f"layers.{i}.experts.router.balance_E" for i in range(4)}
    )
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and changed <= experts


def test_a_start_of_another_kind_of_network_is_refused(tmp_path):
    start = open_checkpoint(save_tiny(tmp_path / "start"))
    other = replace(start.config, rope=RopeConfig(base=500.0))
    with pytest.raises(ConfigError, match=r"start does not fit the run's model: its rope is"):
        first_network(other, start, seed=0)
    longer = replace(start.config, context_length=2048, memory=MemoryConfig())
    model = first_network(longer, start, seed=0)
    assert torch.equal(model.embed.weight, start.load("embed.weight", torch.float32))


def test_a_new_network_loops_in_half_steps_and_new_parts_of_a_trained_one_in_small_ones(tmp_path):
    config = routed_model().config
    assert not first_network(config, None, seed=0).get_parameter("think.gate.bias").any()
    start = open_checkpoint(save_tiny(tmp_path / "dense", num_layers=4))
    parts = replace(start.config, fabric=config.fabric, think=config.think)
    assert (first_network(parts, start, seed=0).get_parameter("think.gate.bias") == -3).all()
