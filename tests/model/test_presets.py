"""The named networks have the sizes that their documentation promises."""

import time
from dataclasses import replace

import pytest
import torch

from heddle.config import DEFAULT_MODEL
from heddle.errors import ConfigError
from heddle.model import cost
from heddle.model.batch import pack
from heddle.model.config import ModelConfig
from heddle.model.presets import NANO, NANO_DENSE, NANO_FLAT_MOE, PRESETS, adapted, find_preset
from heddle.model.transformer import Transformer
from heddle.weights.dense import open_dense
from heddle.weights.hub import resolve
from tests.serving import ROOT

NOMINAL_ACTIVE = {"flash": 40e9, "standard": 180e9, "deep-research": 540e9, "operator-host": 260e9}


def active(config: ModelConfig, *, loops: int = 1) -> float:
    channels = cost.typical_expert_channels(config)
    return cost.active_params(config, expert_channels_per_token=channels, loops=loops)


def one_loop_flops(config: ModelConfig) -> float:
    channels = cost.typical_expert_channels(config)
    return cost.forward_flops(config, num_tokens=1, num_attended=256, expert_channels=channels)


@pytest.mark.parametrize("name", NOMINAL_ACTIVE)
def test_the_nominal_family_has_its_sizes(name: str):
    config = PRESETS[name]
    started = time.perf_counter()
    with torch.device("meta"):
        model = Transformer(config)
    assert time.perf_counter() - started < 20
    assert sum(p.numel() for p in model.parameters()) == cost.total_params(config)
    assert config.think is not None and config.think.num_layers == 12
    for loops in (1, config.think.max_loops):
        assert active(config, loops=loops) == pytest.approx(NOMINAL_ACTIVE[name], rel=0.02)


def test_standard_has_its_total_and_flash_its_bound():
    assert cost.total_params(PRESETS["standard"]) == pytest.approx(3.2e12, rel=0.02)
    assert PRESETS["flash"].think.max_loops == 4


def test_a_million_tokens_fit_the_slots_of_the_nominal_family():
    for name in NOMINAL_ACTIVE:
        memory = PRESETS[name].memory
        assert PRESETS[name].context_length >= 1_000_000
        assert 0 < memory.num_slots(PRESETS[name].context_length) < 128 * 1024


def test_nano_is_small_and_mostly_experts():
    assert cost.total_params(NANO) == pytest.approx(5e6, rel=0.06)
    assert cost.parts(NANO)["experts"].num_params > 0.7 * cost.total_params(NANO)
    assert NANO.memory.num_slots(NANO.context_length) <= NANO.memory.max_slots


def test_the_baselines_are_equal_to_nano_in_what_they_say():
    assert one_loop_flops(NANO_DENSE) == pytest.approx(one_loop_flops(NANO), rel=0.01)
    assert active(NANO_DENSE) == pytest.approx(active(NANO), rel=0.01)
    assert cost.total_params(NANO_FLAT_MOE) == pytest.approx(cost.total_params(NANO), rel=0.01)
    assert one_loop_flops(NANO_FLAT_MOE) == pytest.approx(one_loop_flops(NANO), rel=0.01)
    assert len(NANO_FLAT_MOE.fabric.experts) == len(NANO.fabric.experts)


@pytest.mark.parametrize(("config", "sorts"), [(NANO, True), (NANO_FLAT_MOE, False)])
def test_the_gate_moves_no_choice_of_a_flat_network(config: ModelConfig, sorts: bool):
    torch.manual_seed(0)
    model, packed = Transformer(config).eval(), pack([list(range(40))])
    with torch.inference_mode():
        before = model(packed).trace.choices[0].weight_TE
        model.gate.clusters.bias[0] += 10
        after = model(packed).trace.choices[0].weight_TE
    assert torch.allclose(before, after, atol=1e-6) is not sorts


def test_small_is_the_upcycled_default_model():
    assert PRESETS["small-135m"] == adapted(open_dense(resolve(DEFAULT_MODEL)).config)


def test_an_unknown_preset_names_the_nearest():
    assert find_preset("nano") is NANO
    with pytest.raises(ConfigError, match="did you mean 'standard'"):
        find_preset("Standart")
    with pytest.raises(ConfigError, match="choose one of nano, "):
        find_preset("zzz")


def test_a_context_beyond_the_slots_is_refused():
    with pytest.raises(ConfigError, match="memory slots"):
        replace(PRESETS["standard"], context_length=5_000_000)


def test_every_preset_is_documented():
    text = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    for name, config in PRESETS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        for cell, count in zip(
            row.split("|")[2:4], (cost.total_params(config), active(config)), strict=True
        ):
            unit = {"T": 1e12, "B": 1e9, "M": 1e6}[cell.strip()[-1]]
            assert float(cell.strip()[:-1]) * unit == pytest.approx(count, rel=0.005)
