"""The experiment on memory in small: every arm, its texts, what it counts, and its page."""

import re
from dataclasses import replace
from random import Random

import pytest
import torch

from heddle.model.config import Tier
from heddle.model.memory import WholeSequences
from heddle.model.slots import Pooler
from heddle.train.data.document import IGNORED
from heddle.train.initial import first_network
from recipes.experiments import memory
from recipes.experiments.experiment import DOCS, Found, figures_block, read_page
from recipes.experiments.held_keys import held
from recipes.experiments.memory import ARMS, EXPERIMENT, FORMS, NO_MASS, PAGES, SLOTS, Form
from recipes.experiments.memory_tables import SAID
from recipes.experiments.recall_documents import (
    facts_to_learn,
    facts_to_test,
    lesson,
    passkey,
    passkey_to_learn,
    questions,
    sayings_to_learn,
)

WINDOW = SLOTS.window_blocks * SLOTS.block_tokens
INDEXED = replace(PAGES, tiers=(Tier(2, 4),), index_ratio=4, distance_blocks=8)
TINY = Form(
    first_steps=2,
    first_lengths=(32, 128),
    num_steps=2,
    batch_tokens=256,
    lengths=(64, 256),
    distances=(32, 96),
    num_texts=2,
    held_at=(40, 200),
)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Found:
    """Hold what every arm found in one small home, whose beginning all share."""
    home = tmp_path_factory.mktemp("memory")
    patch = pytest.MonkeyPatch()
    patch.setitem(FORMS, False, TINY)
    trials = {}
    for name, trial in EXPERIMENT.arms.items():
        trials[name] = {0: trial(0, False, home / f"{name}-0") | {"seconds": 1.0}}
    patch.undo()
    return trials


def test_every_arm_ends_and_every_table_has_it(found):
    assert {arm for arm, _ in SAID} == set(EXPERIMENT.arms)
    tables = EXPERIMENT.tables(found)
    for table in tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
    for table in tables[:2]:
        assert [row[0] for row in table.rows] == list(SAID.values())
    assert len(EXPERIMENT.panels(found)) == 3


def test_arms_begin_as_the_same_network_and_differ_in_what_they_see(found, tmp_path):
    assert len({found[arm][0]["tokens"] for arm in ARMS}) == 1
    assert len({found[arm][0]["loss"] for arm in ARMS}) == len(ARMS)
    seen = {arm: found[arm][0]["work"]["flops"] for arm in ARMS}
    assert seen["slots"] < seen["pages"] < seen["exact"]


def test_slots_without_mass_are_out_of_sight():
    """A token then sees what a window shows it, in one layer, and nothing behind it."""
    model = first_network(memory.network(SLOTS), None, seed=0)
    for name, parameter in model.named_parameters():
        if name.endswith("mass"):
            torch.nn.init.constant_(parameter, NO_MASS)
    pooler = next(module for module in model.modules() if isinstance(module, Pooler))
    config = model.config
    q, k, v = (torch.randn(200, config.num_kv_heads, config.head_width) for _ in range(3))
    with torch.no_grad():
        got = WholeSequences((0, 200), config=SLOTS).attend(0, q, k, v, pooler)
        near = [*range(4), *range(200 - WINDOW, 200)]  # sinks, and four blocks
        weight = torch.einsum("hc,lhc->hl", q[-1], k[near]).div(config.head_width**0.5).softmax(-1)
    assert torch.allclose(got[-1], torch.einsum("hl,lhc->hc", weight, v[near]), atol=1e-5)


@pytest.mark.parametrize("draw", [facts_to_learn, sayings_to_learn])
@pytest.mark.parametrize("length", [32, 300])
def test_what_is_asked_in_training_stands_before(draw, length):
    for seed in range(30):
        text = draw(Random(seed), length)
        assert len(text.said) == length
        for offset in text.asked:
            context = text.said[offset - (1 if draw is facts_to_learn else 2) : offset + 1]
            assert context in text.said[: offset - 1], (text.said, offset)


@pytest.mark.parametrize("distance", [32, 128, 1000])
def test_tested_facts_stand_the_distance_away_and_nowhere_else(distance):
    text = facts_to_test(Random(1), distance)
    pairs = [text.said[offset - 1 : offset + 1] for offset in text.asked]
    told = sorted(text.said.index(pair) for pair in pairs)
    assert told == [3 * place for place in range(8)]
    assert sum(text.asked) - sum(told) == 8 * (distance + 1)
    assert all(re.findall(rf"{pair[0]}\d", text.said) == [pair, pair] for pair in pairs)


def test_passkeys_stand_about_the_distance_away():
    for index, distance in enumerate((64, 512, 2048)):
        text = passkey("test", index, distance)
        key = "".join(text.said[offset] for offset in text.asked)
        assert len(key) == 5 and text.said.count(key) == 2
        assert 0.85 < (text.asked[0] - text.said.index(key)) / distance < 1.6


@pytest.mark.parametrize("length", [128, 700])
def test_a_passkey_to_learn_is_asked_for_until_the_text_is_full(length):
    text = passkey_to_learn(Random(1), length, seed=0)
    said = "".join(text.said[offset] for offset in text.asked)
    assert len(text.said) == length and said[:5] in text.said[: text.asked[0]]
    assert said == (said[:5] * len(said))[: len(said)] and len(said) >= 5


def test_lessons_weigh_what_is_asked_most():
    texts = [facts_to_learn(Random(seed), 96) for seed in range(3)]
    asked, all_of_it = questions(texts), lesson(texts)
    is_asked_T = asked.target_T != IGNORED
    assert int(is_asked_T.sum()) == sum(len(text.asked) for text in texts)
    assert torch.equal(asked.target_T[is_asked_T], all_of_it.target_T[is_asked_T])
    assert set(all_of_it.weight_T[is_asked_T].tolist()) == {1.0}
    assert all_of_it.weight_T[~is_asked_T].unique().tolist() == pytest.approx([0.1])
    assert int((all_of_it.target_T == IGNORED).sum()) == 3  # the last bytes


@pytest.mark.parametrize("config", [SLOTS, PAGES, INDEXED], ids=["slots", "pages", "index"])
@pytest.mark.parametrize("context", [20, 33, 200, 1000])
def test_attention_holds_the_designed_slots_and_the_window(config, context):
    model = first_network(memory.network(config), None, seed=0).eval()
    got = held(model, torch.randint(256, (context,)))
    first_near = max(0, (context - 1) // config.block_tokens + 1 - config.window_blocks)
    near = context - first_near * config.block_tokens
    designed = near + (config.sink_tokens if first_near else 0) + config.num_slots(context)
    assert got.num_keys == (designed,) * 3
    key_bytes = 4 * model.config.num_kv_heads * model.config.head_width
    assert got.size_bytes == 3 * designed * 2 * key_bytes


def test_full_attention_holds_everything():
    got = held(first_network(memory.network(None), None, seed=0).eval(), torch.arange(100))
    assert got.num_keys == (100,) * 3


@pytest.mark.skipif(not (DOCS / "memory.json").exists(), reason="not run yet")
def test_the_page_shows_the_figures_that_are_kept():
    page = (DOCS / "memory.md").read_text(encoding="utf-8")
    assert figures_block(EXPERIMENT, read_page(EXPERIMENT)) in page
