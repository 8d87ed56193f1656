import json

import pytest

from heddle.train.journal import Journal
from tests.train.routed import routed_run
from tests.train.small import small_run, train


def test_steps_after_the_checkpoint_are_forgotten_on_resume(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste', encoding="utf-8")
    with Journal(tmp_path, step=2, num_steps=4, tensorboard=False, silent=False):
        pass
    assert [json.loads(line) for line in log.read_text().splitlines()] == [{"step": 1}, {"step": 2}]


def test_a_silent_journal_writes_nothing(tmp_path, capsys):
    with Journal(tmp_path, step=0, num_steps=4, tensorboard=True, silent=True) as journal:
        journal.write({"step": 1})
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().err == ""


def test_without_a_terminal_there_are_lines_now_and_then(tmp_path, capsys):
    train(small_run(tmp_path, num_steps=20))
    told = capsys.readouterr().err.splitlines()
    assert 1 <= len(told) <= 3
    assert told[0].startswith("step 1/20 loss 4.") and "tok/s" in told[0] and "s left" in told[0]


def test_tensorboard_gets_the_figures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(small_run(tmp_path, num_steps=3, tensorboard=True))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss", "tokens_per_s", "learning_rate"} <= set(events.Tags()["tensors"])
    assert [event.step for event in events.Tensors("loss")] == [1, 2, 3]


def test_tables_are_written_whole(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(routed_run(tmp_path, num_steps=1, tensorboard=True))
    [line] = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert [len(row) for row in line["expert_load"]] == [5] * 4
    assert [sum(row) for row in line["expert_load"]] == pytest.approx([1] * 4, abs=1e-3)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {f"expert_load/{layer}/{expert}" for layer in range(4) for expert in range(5)} <= tags
