"""Recall of a model that exists, read exactly, through slots and with pages; and the page."""

from dataclasses import replace
from string import ascii_lowercase

import pytest
import torch

from heddle.engine.load import load_model
from heddle.model.batch import pack
from heddle.text.tokenizer import Tokenizer
from heddle.weights.checkpoint import open_checkpoint
from recipes.experiments import memory_base
from recipes.experiments.experiment import DOCS, figures_block, read_page
from recipes.experiments.held_keys import held
from recipes.experiments.memory_base import (
    EXPERIMENT,
    NUM_FACTS,
    READINGS,
    TEXTS,
    Text,
    draw_text,
    keys_read,
    recall,
    trial,
    with_memory,
)
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("base") / "tiny")


@pytest.mark.parametrize("num_tokens", [1024, 8192])
def test_a_text_says_once_what_is_asked(num_tokens):
    text = draw_text(num_tokens, 0)
    [(_, key)] = text.asked["passkeys"]
    assert text.said.count(f"The passkey is {key}. ") == text.said.count("passkey") == 1
    assert (
        len(text.asked["facts"]) == NUM_FACTS == len({answer for _, answer in text.asked["facts"]})
    )
    for question, answer in text.asked["facts"]:
        name = question.split()[-2]
        assert text.said.count(f"The number of {name} is {answer}. ") == text.said.count(name) == 1
    assert draw_text(num_tokens, 1).asked != text.asked and draw_text(num_tokens, 0) == text
    assert 0.5 * num_tokens < 1.2 * len(text.said.split()) < 1.05 * num_tokens


@pytest.mark.parametrize("name", READINGS)
def test_what_the_network_would_write_is_right(folder, name):
    """Of two questions the answer to one is what the plain forward thinks likeliest."""
    opened = open_checkpoint(folder)
    tokenizer = Tokenizer(opened.tokenizer_json)
    said = draw_text(256, 0).said
    most = len(tokenizer.encode(said)) + memory_base.ROOM
    model = load_model(
        with_memory(opened, READINGS[name], context_length=most), dtype="float32", kernels=None
    )

    def likeliest(question: str) -> str:
        tokens = [*tokenizer.encode(said), *tokenizer.encode(question)]
        with torch.inference_mode():
            return tokenizer.decode([int(model(pack([tokens])).logits_NV[-1].argmax())])

    asked = [(question, likeliest(question)) for question in ascii_lowercase]
    asked = [each for each in asked if len(tokenizer.encode(each[1])) == 1][:1]
    assert asked, "no likeliest token can be said again"
    asked.append((asked[0][0], "~" if asked[0][1] != "~" else "^"))
    got = recall(opened, [Text(said, {"passkeys": asked, "facts": []})], READINGS[name])
    assert got["right"] == {"passkeys": 1, "facts": 0, "digits": 1}
    assert got["asked"]["passkeys"] == 2 and got["tokens"] == most - memory_base.ROOM


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize("length", [65, 129, 400, 1500])
def test_keys_read_are_those_that_attention_is_given(folder, name, length):
    checkpoint = with_memory(open_checkpoint(folder), READINGS[name], context_length=2048)
    model = load_model(checkpoint, dtype="float32", kernels=None)
    tokens = torch.randint(300, (length,), generator=torch.Generator().manual_seed(0))
    read = keys_read(checkpoint.config, length - 1)
    assert held(model, tokens).num_keys == (read,) * checkpoint.config.num_layers


def test_with_an_index_attention_reads_as_much_at_any_length(folder):
    opened = open_checkpoint(folder)
    [reading] = [each for each in READINGS.values() if each.most_tokens > 8192]
    config = with_memory(opened, reading, context_length=1 << 20).config
    assert len({keys_read(config, 1023 + 1024 * times) for times in (0, 7, 63, 1023)}) == 1
    exact = replace(config, memory=None)
    assert keys_read(config, 1 << 17) < keys_read(exact, 1 << 17) / 200


def test_every_reading_of_every_length_is_on_the_page(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_base, "DEFAULT_MODEL", str(folder))
    monkeypatch.setitem(TEXTS, 96, ((1, 1, 0), (1, 1, 1)))
    monkeypatch.setitem(TEXTS, 200, ((1, 0, 0), (1, 1, 1)))
    found = {
        str(length): {seed: trial(length, seed, False, tmp_path) for seed in range(3)}
        for length in (96, 200)
    }
    assert found["96"][2] == {"found": {}}
    asked = [found["96"][seed]["found"]["full attention"]["asked"] for seed in (0, 1)]
    assert [each["passkeys"] for each in asked] == [1, 1]
    recalled, held_keys = EXPERIMENT.tables(found)
    for table in (recalled, held_keys):
        assert [row[1] for row in table.rows] == 2 * list(READINGS)
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert recalled.rows[0][2].endswith("of 2")
    assert len(EXPERIMENT.panels(found)) == 2


@pytest.mark.skipif(not (DOCS / "memory_base.json").exists(), reason="not run yet")
def test_the_page_shows_the_figures_that_are_kept():
    page = (DOCS / "memory_base.md").read_text(encoding="utf-8")
    assert figures_block(EXPERIMENT, read_page(EXPERIMENT)) in page
