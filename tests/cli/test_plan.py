import json
import re

import pytest
from typer.testing import CliRunner

from heddle.cli.main import app
from heddle.cli.plan_tables import BYTES, COUNTS, scaled
from heddle.model.presets import PRESETS
from tests.serving import ROOT


def plan(*arguments: str):
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, ["plan", *arguments])


def report(*arguments: str) -> dict:
    return json.loads(plan(*arguments, "--json").stdout)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_plan(preset: str):
    found = report(preset)
    assert found["total_params"] == sum(part["total"] for part in found["params"].values())
    assert found["active_params"] <= found["total_params"]
    assert (
        found["flops_per_token"]
        > 2 * (found["active_params"] - found["params"]["norms"]["total"]) * 0.9
    )
    assert found["cache_bytes"] > 0 and found["training"]["days"] > 0
    shown = plan(preset).stdout
    assert preset in shown and "fits" in shown


def test_depth_costs_what_the_block_costs():
    found = report("flash", "--loops", "4")
    by_loops = {int(loops): flops for loops, flops in found["flops_per_token_by_loops"].items()}
    assert list(by_loops) == [1, 2, 4] and found["flops_per_token"] == by_loops[4]
    assert by_loops[4] - by_loops[2] == pytest.approx(2 * (by_loops[2] - by_loops[1]))
    assert found["active_params"] > report("flash")["active_params"]


def test_memory_keeps_the_cache_flat_and_a_dense_network_does_not():
    flat, dense = (
        report("standard", "--context", "1000000"),
        report("nano-dense", "--context", "1000000"),
    )
    assert flat["cache_bytes"] < 0.15 * flat["caches"][-1]["exact_bytes"]
    assert dense["cache_bytes"] == dense["caches"][-1]["exact_bytes"]
    assert [each["num_slots"] for each in dense["caches"]] == [0] * len(dense["caches"])


def test_training_time_follows_tokens_utilisation_and_gpus():
    base = report("nano", "--tokens", "1e9", "--mfu", "0.2")["training"]
    other = report("nano", "--tokens", "3e9", "--mfu", "0.4", "--gpus", "16")["training"]
    assert other["days"] == pytest.approx(base["days"] * 3 / 2 / 2)
    assert base["flops"] / (8 * 989.4e12 * 0.2) / 86400 == pytest.approx(base["days"])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["standart"], "did you mean 'standard'"),
        (["nano", "--gpu", "TPU"], "choose one of H200"),
        (["nano", "--loops", "0"], "between 1 and 32 for nano, not 0"),
        (["nano", "--loops", "33"], "between 1 and 32 for nano, not 33"),
        (["flash", "--loops", "8"], "between 1 and 4 for flash, not 8"),
        (["nano-dense", "--loops", "2"], "nano-dense has no thinking block"),
        (["standard", "--context", "5000000"], "memory slots"),
        (["nano", "--mfu", "1.5"], "--mfu must lie above 0"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], problem: str):
    refused = plan(*arguments)
    assert refused.exit_code == 1 and refused.stdout == ""
    assert refused.stderr.startswith("Error: ") and problem in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_every_field_is_documented():
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = re.search(r"## heddle plan.*?(?=\n## )", text, re.DOTALL).group()
    found = report("nano")
    names = {*found, *found["caches"][0], *found["serving"], *found["training"]}
    assert [name for name in names if f"`{name}`" not in section] == []


def test_numbers_are_written_with_three_digits():
    assert [scaled(value, COUNTS) for value in (0, 999, 1e3, 12_345, 123_456, 3.2e12)] == [
        "0", "999", "1.00 K", "12.3 K", "123 K", "3.20 T",
    ]  # fmt: skip
    assert scaled(1_048_576, BYTES) == "1.05 MB"
