"""Recall of a model that exists, read exactly, through slots and with pages; and the page."""

from dataclasses import replace

import pytest
import torch

from heddle.model.config import MemoryConfig, Tier
from heddle.tasks.recall import PASSKEY
from heddle.text.tokenizer import Tokenizer
from heddle.train.initial import first_network
from heddle.weights.checkpoint import open_checkpoint
from recipes.experiments import memory_base
from recipes.experiments.experiment import DOCS, figures_block, read_page
from recipes.experiments.memory_base import EXPERIMENT, READINGS, recall, trial
from tests.tiny import save_tiny

SLOTS = MemoryConfig(block_tokens=8, sink_tokens=2, window_blocks=1, tiers=(Tier(8, None),))


@pytest.fixture
def folder(tmp_path):
    return save_tiny(tmp_path / "tiny")


def test_greedy_digits_count_whatever_the_memory(folder):
    """The head is made to say what is asked, or nothing that is."""
    opened = open_checkpoint(folder)
    tokenizer = Tokenizer(opened.tokenizer_json)
    model = first_network(replace(opened.config, memory=SLOTS), opened, seed=0).eval()
    examples = [PASSKEY.example("test", index, difficulty=20) for index in range(2)]
    readings = {"exact": None, "slots": SLOTS}
    wanted = [tokenizer.encode(example.answer) for example in examples]

    class Always(torch.nn.Module):
        """Says one token."""

        def __init__(self, token_id: int):
            super().__init__()
            self.token_id = token_id

        def forward(self, x_ND):
            return torch.eye(opened.config.vocab_size)[[self.token_id] * len(x_ND)]

    model.add_module("head", Always(wanted[0][0]))
    found = recall(model, tokenizer, examples, readings)
    once = sum(ids.count(wanted[0][0]) for ids in wanted)
    assert found["digits"] == {"exact": once, "slots": once} and once >= 1
    assert found["keys"] == {"exact": 0, "slots": 0}
    assert found["asked"]["digits"] == sum(map(len, wanted)) and found["asked"]["keys"] == 2


def test_every_reading_of_every_length_is_on_the_page(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_base, "DEFAULT_MODEL", str(folder))
    found = {
        name: {seed: trial(words, seed, False, tmp_path) for seed in (0, 1)}
        for name, words in (("short", 8), ("long", 12))
    }
    assert {each["asked"]["keys"] for trials in found.values() for each in trials.values()} == {4}
    assert found["short"][0]["asked"] != found["short"][1]["asked"]  # other passkeys
    [table] = EXPERIMENT.tables(found)
    assert [row[1] for row in table.rows] == 2 * list(READINGS)
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert len(EXPERIMENT.panels(found)) == 1


@pytest.mark.skipif(not (DOCS / "memory_base.json").exists(), reason="not run yet")
def test_the_page_shows_the_figures_that_are_kept():
    page = (DOCS / "memory_base.md").read_text(encoding="utf-8")
    assert figures_block(EXPERIMENT, read_page(EXPERIMENT)) in page
