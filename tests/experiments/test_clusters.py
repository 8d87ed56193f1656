import json
from dataclasses import replace

import pytest
import torch

from heddle.model.config import CLUSTERS
from heddle.model.cost import MATRICES_PER_EXPERT
from heddle.model.transformer import Transformer
from recipes.experiments import clusters, domain_training
from recipes.experiments.cluster_tables import (
    TOLERANCE,
    WITHOUT,
    best_damage,
    damage,
    equal_and_cheapest,
)
from recipes.experiments.clusters import (
    ARMS,
    EXPERIMENT,
    SMALL,
    columns_of,
    knock_outs,
    priced,
    zeroed,
)
from recipes.experiments.domain_training import DOMAINS, held_out, read
from recipes.experiments.experiment import DOCS, as_markdown, figures_block, read_page


@pytest.fixture(autouse=True)
def few_documents(monkeypatch):
    monkeypatch.setattr(domain_training, "NUM_HELD_OUT", 2)


@pytest.fixture
def model() -> Transformer:
    """A network whose every part says something."""
    torch.manual_seed(0)
    network = Transformer(SMALL).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("down", "down.weight")):
                parameter.normal_(0, 0.3)
    return network


def without(model: Transformer, packed, cluster: int):
    steer_TG = torch.zeros(len(packed.token_T), len(CLUSTERS))
    steer_TG[:, cluster] = -torch.inf
    with torch.no_grad():
        return model(packed._replace(steer_TG=steer_TG))


@pytest.mark.parametrize("cluster", range(len(CLUSTERS)))
def test_a_cluster_taken_away_has_no_say(model, cluster):
    packed = held_out("test")["creative"].packed
    out = without(model, packed, cluster)
    is_its_E = torch.tensor([expert.cluster == cluster for expert in SMALL.fabric.experts])
    for choice in out.trace.choices:
        assert (choice.weight_TE[:, is_its_E] == 0).all()
        assert torch.allclose(choice.weight_TE.sum(-1), torch.ones(len(packed.token_T)))
    columns = columns_of(SMALL, cluster)
    with torch.no_grad():
        for layer in model.layers:
            layer.experts.down[:, columns] += 1
            layer.experts.router.scores.weight[is_its_E] += 1
    assert torch.equal(without(model, packed, cluster).logits_NV, out.logits_NV)
    with torch.no_grad():
        assert not torch.allclose(model(packed).logits_NV, out.logits_NV)


def test_columns_cover_all_experts_once():
    columns = torch.cat([columns_of(SMALL, cluster) for cluster in range(len(CLUSTERS))])
    width = sum(expert.width for expert in SMALL.fabric.experts)
    assert sorted(columns.tolist()) == list(range(width))


def test_zeroed_columns_come_back(model):
    down = model.layers[0].experts.down
    before, places = down.detach().clone(), torch.tensor([1, 5])
    with pytest.raises(RuntimeError, match="in between"), zeroed([(down, places)]):
        assert (down[:, places] == 0).all() and (down[:, 2:5] == before[:, 2:5]).all()
        raise RuntimeError("in between")
    assert torch.equal(down, before)


def test_knock_outs_are_differences_and_leave_the_network_as_it_was(model):
    held = held_out("test")
    untouched = read(model, held)
    found = knock_outs(model, held)
    assert read(model, held) == untouched
    for cluster in range(len(CLUSTERS)):
        assert len(found["random"][cluster]) == len(DOMAINS)
        for place, domain in enumerate(DOMAINS):
            after = read(model, held, without=cluster)[domain].loss
            assert found["steered"][cluster][place] == pytest.approx(
                after - untouched[domain].loss, abs=1e-5
            )
    assert all(abs(value) > 1e-4 for value in found["no_shared"] + found["no_experts"])


def test_expert_flops_are_those_of_the_chosen_widths(model):
    held = held_out("test")
    reading = read(model, held)["spatial"]
    packed = held["spatial"].packed
    channels = 0
    with torch.no_grad():
        for choice in model(packed).trace.choices:
            for token in choice.weight_TE.tolist():
                chosen = zip(token, SMALL.fabric.experts, strict=True)
                channels += sum(expert.width for weight, expert in chosen if weight > 0)
    flops = 2 * MATRICES_PER_EXPERT * SMALL.width * channels / len(packed.token_T)
    assert reading.expert_flops == pytest.approx(flops)
    with priced(model, 50.0):
        cheap = read(model, held)["spatial"]
    assert cheap.expert_flops < 0.2 * flops
    assert read(model, held)["spatial"] == reading


def test_damage_is_split_by_the_diagonal():
    matrix = [[1.0] * 5 for _ in range(5)]
    for cluster in range(5):
        matrix[cluster][(cluster + 1) % 5] = 6.0
    assert damage(matrix) == pytest.approx((1.0, (15 * 1 + 5 * 6) / 20))
    assert best_damage(matrix) == damage(matrix, [1, 2, 3, 4, 0]) == pytest.approx((6.0, 1.0))
    assert [str(damage(matrix)), str(best_damage(matrix))] == ["0.4", "6.0"]
    assert str(damage([[1.0, -0.001], [0.001, 1.0]])) == ">100"


def test_the_cheapest_of_equal_loss_is_chosen_by_validation_alone():
    def figures(validation, test, flops):
        reading = {"loss": test, "expert_flops": flops}
        return [{"validation_loss": validation, "test": {"creative": reading}}]

    trials_of = {
        WITHOUT: figures(1.0, 1.0, 100),
        "low": figures(1 + 0.9 * TOLERANCE, 1.0, 80),
        "middle": figures(1 + 0.9 * TOLERANCE, 2.0, 60),
        "high": figures(1 + 1.1 * TOLERANCE, 0.5, 10),
    }
    assert equal_and_cheapest(trials_of) == "middle"
    del trials_of["low"], trials_of["middle"]
    assert equal_and_cheapest(trials_of) == WITHOUT


def test_every_arm_runs(monkeypatch, tmp_path):
    short = {"num_steps": 2, "tokens_per_batch": 320}
    for name, training in ARMS.items():
        monkeypatch.setitem(clusters.ARMS, name, replace(training, **short))
    monkeypatch.setattr(clusters, "SECOND", replace(clusters.SECOND, **short))
    found = {name: {0: EXPERIMENT.arms[name](0, False, tmp_path / name)} for name in ARMS}
    assert all(as_markdown(table) for table in EXPERIMENT.tables(found))
    assert EXPERIMENT.panels(found)
    second = found["labels"][0]["second"]
    assert list(second) == list(clusters.STAGES) and WITHOUT in second
    tests = [json.dumps(figures["test"]) for figures in (found["labels"][0], *second.values())]
    assert len(set(tests)) == len(tests)  # each trained on, and each otherwise


def test_without_a_prior_routers_do_not_hear_the_gate(tmp_path):
    training = replace(ARMS["no-prior"], num_steps=2, tokens_per_batch=320)
    model = training.trained(0, tmp_path)
    assert [layer.experts.router.prior.item() for layer in model.layers] == [0.0, 0.0]


@pytest.mark.skipif(
    not (DOCS / f"{EXPERIMENT.name}.json").exists(), reason="the experiment has not been run yet"
)
def test_the_page_shows_the_figures():
    page = (DOCS / "clusters.md").read_text(encoding="utf-8")
    assert figures_block(EXPERIMENT, read_page(EXPERIMENT)) in page
