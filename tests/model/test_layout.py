"""Splits over GPUs: what fits, what each GPU holds, against figures worked out by hand."""

import pytest

from heddle.errors import ConfigError
from heddle.model import cost, layout
from heddle.model.devices import DEVICES, find_device
from heddle.model.presets import PRESETS
from tests.serving import ROOT

H200 = find_device("h200")
SMALL, STANDARD = PRESETS["small-135m"], PRESETS["standard"]


def test_a_tokens_keys_and_values():
    assert layout.cache_bytes_per_token(SMALL) == 2 * 30 * 3 * 64 * 2 == 23_040


def test_memory_flattens_the_cache():
    each = layout.cache_bytes_per_token(STANDARD)
    near = STANDARD.memory.window_blocks * STANDARD.memory.block_tokens
    assert layout.cache_bytes(STANDARD, context=near) == near * each
    million = layout.cache_bytes(STANDARD, context=1_048_576)
    assert million == (near + 4 + 102_384) * each
    assert layout.cache_bytes(STANDARD, context=1_048_576, loops=3) == million + (
        2 * 64 * 12 * each / STANDARD.num_layers
    )


def test_small_networks_are_copied():
    found = layout.training_layout(SMALL, H200, num_gpus=8, loops=1)
    assert found.split == layout.Split(tensor=1, expert=1, data=8, fsdp=1) and found.fits
    params = cost.total_params(SMALL)
    assert found.bytes_by_kind["weights"] == 6 * params
    assert 4 * params < found.bytes_by_kind["optimiser"] < 8 * params


@pytest.mark.parametrize("num_gpus", [64, 96, 1024])
def test_a_group_holds_the_whole_network(num_gpus: int):
    found = layout.serving_layout(STANDARD, H200, num_gpus=num_gpus, context=8192, loops=1)
    split = found.split
    assert found.fits and split.tensor * split.expert * split.data == num_gpus
    assert found.bytes_by_kind["weights"] * split.tensor * split.expert >= (
        2 * cost.total_params(STANDARD)
    )
    assert sum(found.bytes_by_kind.values()) <= layout.USABLE * H200.memory_bytes
    held = layout.num_sequences(found, H200)
    one_part = held / (split.expert * split.data) * found.bytes_by_kind["cache"]
    assert one_part + found.bytes_by_kind["weights"] <= layout.USABLE * H200.memory_bytes


def test_training_states_are_sharded_over_all():
    found = layout.training_layout(STANDARD, H200, num_gpus=1024, loops=4)
    assert found.fits and found.split.fsdp == 1024
    assert found.bytes_by_kind["gradients"] == 4 * cost.total_params(STANDARD) / 1024
    deeper = layout.training_layout(STANDARD, H200, num_gpus=1024, loops=32)
    assert deeper.bytes_by_kind["activations"] * deeper.split.tensor > (
        found.bytes_by_kind["activations"] * found.split.tensor
    )


def test_too_few_gpus_do_not_fit_and_enough_are_named():
    def make(num_gpus: int) -> layout.Layout:
        return layout.serving_layout(STANDARD, H200, num_gpus=num_gpus, context=8192, loops=1)

    fewest = layout.fewest_gpus(make)
    assert fewest is not None and make(fewest).fits and not make(fewest // 2).fits
    assert layout.num_sequences(make(fewest // 2), H200) == 0


def test_gpus_are_found_in_any_case_and_documented():
    assert find_device("rtx 4090").memory_bytes == 24e9
    with pytest.raises(ConfigError, match="choose one of H200"):
        find_device("TPU")
    text = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    for device in DEVICES:
        row = next(line for line in text.splitlines() if line.startswith(f"| {device.name} |"))
        _, _, peak, memory, _ = row.split("|")
        assert float(peak) == device.peak_flops
        assert float(memory.split()[0]) * 1e9 == device.memory_bytes
