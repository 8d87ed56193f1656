"""The demonstration in small: what it reads, how deep, and that it leaves a model and a report."""

import json
from pathlib import Path

import pytest
import torch

from heddle.tasks.table import TASKS
from heddle.tasks.task import split_of
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.document import IGNORED
from heddle.train.overrides import override
from heddle.train.run import Run, load_recipe, start
from heddle.weights.checkpoint import open_checkpoint
from tests.train.small import RECIPE

SMALL = (
    "fit.num_steps=4",
    "optimiser.schedule.decay_steps=1",
    "objective.microbatch_tokens=48",
    "objective.num_tested=4",
    "objective.tested=[3]",
    "objective.loops=[1,3]",
)


@pytest.fixture(scope="module")
def run() -> Run:
    return load_recipe(str(Path(RECIPE).with_name("cpu_demo.py")))


def first_batches(run: Run, count: int):
    stage = run.objective.stage(None)
    assert stage.tokenizer
    stream = stage.batches(None, rank=0, num_ranks=1)
    return [next(stream)[0] for _ in range(count)], Tokenizer(stage.tokenizer)


def test_cups_take_about_a_loop_a_move_and_other_tasks_one(run):
    batches, tokenizer = first_batches(run, 30)
    seen = set()
    for batch in batches:
        depth = run.objective.depth(batch, 0.0)
        [loops] = set(depth.max_T.tolist())
        text = tokenizer.decode(batch.token_T[: batch.bounds_S1[1]].tolist())
        is_deep = text.startswith("cup")
        num_moves = len(text) - len("cup3=3")
        assert loops == 1 if not is_deep else abs(loops - num_moves) <= 2
        seen.add(is_deep)
    assert seen == {True, False}


def test_no_held_out_question_is_trained_on_and_every_move_has_a_label(run):
    batches, tokenizer = first_batches(run, 12)
    for batch in batches:
        for low, high in zip(batch.bounds_S1, batch.bounds_S1[1:], strict=False):
            text = tokenizer.decode(batch.token_T[low:high].tolist())
            if not text.startswith("cup"):
                continue
            prompt = text[: text.index("=") + 1]
            assert split_of("cups", prompt) == "train"
            assert (batch.target_T[low:high] != IGNORED).sum() == len(prompt) - len("cup3=") + 2


def test_it_leaves_a_model_that_can_be_served_and_a_report(run, tmp_path):
    run = override(run, [*SMALL, f"folder={tmp_path / 'run'}"])
    assert start(run, resume=False).step == 4
    opened = open_checkpoint(run.folder)
    assert opened.config.fabric and opened.config.think and opened.config.memory
    assert opened.chat_template
    [batch], _ = first_batches(run, 1)
    assert int(batch.token_T[-1]) in opened.eos_ids, "serving would not stop where answers end"
    numbers = json.loads((run.folder / "report" / "report.json").read_text(encoding="utf-8"))
    assert [level["difficulty"] for level in numbers["levels"]] == [3]
    assert set(numbers["cluster_shares"]) == {"cups", "addition", "key_value_recall"}
    again = start(run, resume=True)  # nothing is left to do but to report once more
    assert again.step == 4
    assert torch.isfinite(torch.tensor(again.figures["loss"]))
    assert set(TASKS) >= set(numbers["cluster_shares"])
