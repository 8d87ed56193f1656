from dataclasses import replace

import pytest

from heddle.model.cost import forward_flops, total_params, typical_expert_channels
from recipes.experiments import domain_training, routing
from recipes.experiments.experiment import DOCS, as_markdown, figures_block, read_page
from recipes.experiments.routing import ARMS, EXPERIMENT, SMALL


def typical_flops(config):
    channels = typical_expert_channels(config)
    return forward_flops(config, num_tokens=1, num_attended=32, expert_channels=channels)


@pytest.mark.parametrize("size", ["small", "nano"])
def test_arms_are_as_equal_as_they_are_said_to_be(size):
    networks = {name: getattr(arm, size) for name, arm in ARMS.items()}
    clusters = networks["clusters"]
    for name in ("dense", "flat-moe", "unlabelled"):
        assert typical_flops(networks[name]) == pytest.approx(typical_flops(clusters), rel=0.01)
    for name in ("large", "flat-moe", "unlabelled"):
        assert total_params(networks[name]) == pytest.approx(total_params(clusters), rel=0.01)


def test_every_arm_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(domain_training, "NUM_HELD_OUT", 2)
    short = replace(routing.SHORT, num_steps=3, tokens_per_batch=320)
    monkeypatch.setattr(routing, "SHORT", short)
    found = {name: {0: EXPERIMENT.arms[name](0, False, tmp_path / name)} for name in ARMS}
    assert all(as_markdown(table) for table in EXPERIMENT.tables(found))
    assert EXPERIMENT.panels(found)
    assert found["clusters"][0]["params"] == total_params(SMALL)
    for name in ("dense", "large"):  # without experts, work is the same for every token
        config = ARMS[name].small
        flops = forward_flops(config, num_tokens=1, num_attended=32.5)
        for reading in found[name][0]["test"].values():
            assert reading["flops"] == pytest.approx(flops)


@pytest.mark.skipif(
    not (DOCS / f"{EXPERIMENT.name}.json").exists(), reason="the experiment has not been run yet"
)
def test_the_page_shows_the_figures():
    page = (DOCS / "routing.md").read_text(encoding="utf-8")
    assert figures_block(EXPERIMENT, read_page(EXPERIMENT)) in page
