import json
import math
from dataclasses import replace
from itertools import repeat

import pytest
import torch

from heddle.errors import ConfigError, TrainingError
from heddle.train.stage import Loss
from heddle.weights.store import checkpoints, read_record
from tests.train.small import assert_same_bits, newest, small_run, train


def figures(run) -> list[dict]:
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def spoiled(stage, is_spoiled):
    """Return `stage` with some of its losses, by number, not finite."""
    numbers = iter(range(10**9))

    def loss(model, batch, progress) -> Loss:
        given = stage.loss(model, batch, progress)
        return given._replace(mean=given.mean * math.nan) if is_spoiled(next(numbers)) else given

    return replace(stage, loss=loss)


@pytest.mark.parametrize("hidden", ["muon", "adamw"])
def test_one_batch_is_learnt_by_heart(tmp_path, hidden):
    run = small_run(tmp_path, hidden=hidden, num_steps=80, num_microbatches=1)
    stage = run.objective.stage(None)
    first = next(stage.batches(None, rank=0, num_ranks=1))
    train(run, stage=replace(stage, batches=lambda cursor, **_: repeat(first), validation=None))
    losses = [line["loss"] for line in figures(run)]
    assert losses[0] > 4 and losses[-1] < 0.05


def test_accumulated_microbatches_equal_one_large_batch(tmp_path):
    """Micro-batches of unequal weight count by their weight."""
    run = small_run(tmp_path / "parts", num_steps=1, num_microbatches=2)
    stage = run.objective.stage(None)
    stream = stage.batches(None, rank=0, num_ranks=1)
    large, _ = next(stream)
    half = len(large.token_T) // 2
    small = [large._replace(bounds_S1=(0, 16, 32)), large._replace(bounds_S1=(0, 16, 32))]
    for index, part in enumerate(small):
        span = slice(index * half, (index + 1) * half)
        small[index] = part._replace(
            **{name: getattr(large, name)[span] for name in large._fields if name.endswith("_T")}
        )
    large.target_T[:9] = small[0].target_T[:9] = -100  # the halves score different numbers
    train(
        run, stage=replace(stage, batches=lambda cursor, **_: iter([(part, {}) for part in small]))
    )
    whole = small_run(tmp_path / "whole", num_steps=1, num_microbatches=1)
    train(whole, stage=replace(stage, batches=lambda cursor, **_: iter([(large, {})])))
    ours, theirs = newest(run.folder), newest(whole.folder)
    for name, tensor in ours.model.items():
        torch.testing.assert_close(tensor, theirs.model[name], atol=1e-6, rtol=1e-5)


def test_recompute_changes_nothing(tmp_path):
    train(small_run(tmp_path / "kept"))
    train(small_run(tmp_path / "again", recompute=True))
    assert_same_bits(newest(tmp_path / "kept"), newest(tmp_path / "again"))


def test_bfloat16_learns_on_float32_masters(tmp_path):
    run = small_run(tmp_path, num_steps=150, dtype="bfloat16", num_microbatches=1)
    stage = run.objective.stage(None)
    first = next(stage.batches(None, rank=0, num_ranks=1))
    train(run, stage=replace(stage, batches=lambda cursor, **_: repeat(first), validation=None))
    assert figures(run)[-1]["loss"] < 0.1
    model = newest(tmp_path).model
    assert all(tensor.dtype == torch.float32 for tensor in model.values())
    assert any((tensor != tensor.bfloat16().float()).any() for tensor in model.values())


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path):
    skipping = small_run(tmp_path / "skipping", num_steps=4, num_microbatches=1)
    train(skipping, stage=spoiled(skipping.objective.stage(None), lambda number: number in (1, 2)))
    assert [line["skipped_in_row"] for line in figures(skipping)] == [0, 1, 2, 0]
    assert [line["loss"] is None for line in figures(skipping)] == [False, True, True, False]

    stage = skipping.objective.stage(None)
    good = [
        pair
        for number, pair in zip(range(4), stage.batches(None, rank=0, num_ranks=1), strict=False)
    ]
    del good[1:3]
    other = small_run(tmp_path / "other", num_steps=2, num_microbatches=1)
    train(other, stage=replace(stage, batches=lambda cursor, **_: iter(good)))
    assert_same_bits(newest(skipping.folder), newest(other.folder))


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path):
    run = small_run(tmp_path, num_steps=20, max_skipped=3)
    with pytest.raises(TrainingError, match="not finite 3 steps in a row, up to step 8"):
        train(run, stage=spoiled(run.objective.stage(None), lambda number: number >= 10))
    assert checkpoints(tmp_path) == []


def test_data_that_ends_is_told(tmp_path):
    run = small_run(tmp_path, num_steps=9)
    stage = run.objective.stage(None)
    few = [
        pair for _, pair in zip(range(5), stage.batches(None, rank=0, num_ranks=1), strict=False)
    ]
    with pytest.raises(TrainingError, match="the data ends in step 3 of 9"):
        train(run, stage=replace(stage, batches=lambda cursor, **_: iter(few)))


def test_max_seconds_saves_before_the_limit(tmp_path):
    run = small_run(tmp_path, num_steps=100_000, max_seconds=2.0)
    result = train(run)
    elapsed = sum(line["seconds"] for line in figures(run))
    assert result.stopped == "max_seconds" and 0.5 < elapsed < 2
    assert read_record(checkpoints(tmp_path)[-1]).step == result.step < 100_000


def test_validation_is_the_same_set_each_time_and_changes_nothing(tmp_path):
    run = small_run(tmp_path / "seldom")
    train(run)
    often = small_run(tmp_path / "often", validate_every=2)
    train(often)
    assert_same_bits(newest(run.folder), newest(often.folder))
    lines = [line.get("validation_loss") for line in figures(often)]
    assert [value is not None for value in lines] == [False, True, False, True, False, True]
    assert lines[-1] == figures(run)[-1]["validation_loss"]


def test_figures_add_up(tmp_path):
    run = small_run(tmp_path, num_steps=3)
    train(run)
    lines = figures(run)
    tokens = 2 * 4 * 16
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["tokens"] for line in lines] == [tokens, 2 * tokens, 3 * tokens]
    for line in lines:
        assert line["tokens_per_s"] == pytest.approx(tokens / line["seconds"])
        assert 0 < line["mfu"] < 1 and line["seconds_left"] >= 0
        assert line["cross_entropy"] == pytest.approx(line["loss"], rel=0.01)
    assert read_record(checkpoints(tmp_path)[-1]).metrics["tokens"] == 3 * tokens


def test_after_step_gets_metrics_of_any_shape_averaged_over_the_step(tmp_path):
    run = small_run(tmp_path, num_steps=2, num_microbatches=4)
    stage = run.objective.stage(None)
    values = iter(range(100))
    given = []

    def loss(model, batch, progress) -> Loss:
        value = next(values)
        return stage.loss(model, batch, progress)._replace(
            metrics={"load": torch.full((2, 3), 1.0 * value)}
        )

    def after_step(model, metrics):
        given.append(metrics["load"])

    train(run, stage=replace(stage, loss=loss, after_step=after_step, validation=None))
    torch.testing.assert_close(
        torch.stack(given), torch.tensor([1.5, 5.5]).view(2, 1, 1).expand(2, 2, 3).double()
    )
    assert [line["load"] for line in figures(run)] == [[[1.5] * 3] * 2, [[5.5] * 3] * 2]


@pytest.mark.parametrize("fields", [{"num_steps": 0}, {"max_seconds": -1}, {"max_skipped": 0}])
def test_impossible_settings_are_refused(tmp_path, fields):
    with pytest.raises(ConfigError):
        small_run(tmp_path, **fields)
