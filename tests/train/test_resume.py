import shutil
import signal
from dataclasses import replace

import pytest

from heddle.errors import ConfigError, StorageError, WeightsError
from heddle.train.run import start
from heddle.train.saving import SavingConfig
from heddle.weights.store import checkpoints
from tests.train.processes import ended, long_run, started, wait_for_steps
from tests.train.small import assert_same_bits, newest, small_run, train


@pytest.mark.parametrize("hidden", ["muon", "adamw"])
def test_n_and_n_steps_equal_2n_bit_for_bit(tmp_path, hidden):
    run = small_run(tmp_path / "whole", hidden=hidden, num_steps=8)
    train(run)
    halved = replace(run, folder=tmp_path / "halved")
    train(replace(halved, fit=replace(run.fit, num_steps=4)))
    result = train(halved, resume=True)
    assert result.step == 8
    assert_same_bits(newest(run.folder), newest(halved.folder))
    logs = [
        (folder / "metrics.jsonl").read_text().splitlines()
        for folder in (run.folder, halved.folder)
    ]
    losses = [[line.split('"loss": ')[1].split(",")[0] for line in log] for log in logs]
    assert losses[0] == losses[1] and len(losses[0]) == 8


def test_bfloat16_resumes_bit_for_bit(tmp_path):
    run = small_run(tmp_path / "whole", num_steps=4, dtype="bfloat16")
    train(run)
    halved = replace(run, folder=tmp_path / "halved")
    train(replace(halved, fit=replace(run.fit, num_steps=2)))
    train(halved, resume=True)
    assert_same_bits(newest(run.folder), newest(halved.folder))


def test_a_killed_and_an_interrupted_run_equal_an_unbroken_one(tmp_path):
    run = long_run(tmp_path / "broken")
    unbroken = replace(run, folder=tmp_path / "unbroken")
    train(unbroken)

    with started(run) as process:
        wait_for_steps(run.folder, 10)
    assert process.returncode == -signal.SIGKILL
    assert 0 < int(checkpoints(run.folder)[-1].name[-8:]) < run.fit.num_steps

    with started(run, "--resume") as process:
        wait_for_steps(run.folder, 60)
        process.terminate()
        code, told = ended(process)
    assert code == 75 and "(interrupted); go on with --resume" in told

    with started(run, "--resume") as process:
        code, told = ended(process)
    assert code == 0, told
    assert_same_bits(newest(run.folder), newest(unbroken.folder))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(tmp_path, number):
    run = small_run(tmp_path)
    stage = run.objective.stage(None)

    def interrupted(cursor, **ranks):
        for count, pair in enumerate(stage.batches(cursor, **ranks)):
            if count == 4:
                signal.raise_signal(number)
            yield pair

    before = signal.getsignal(number)
    result = train(run, stage=replace(stage, batches=interrupted))
    assert (result.step, result.stopped) == (3, "interrupted")
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000003"]
    assert signal.getsignal(number) is before


def test_the_same_signal_again_acts_at_once(tmp_path):
    run = small_run(tmp_path)

    def impatient(cursor, **_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        yield

    with pytest.raises(KeyboardInterrupt):
        train(run, stage=replace(run.objective.stage(None), batches=impatient))


def test_a_folder_in_use_needs_resume(tmp_path):
    run = small_run(tmp_path, num_steps=1)
    start(run, resume=False)
    with pytest.raises(ConfigError, match="add --resume"):
        start(run, resume=False)


def test_resume_without_a_checkpoint_begins(tmp_path):
    assert train(small_run(tmp_path, num_steps=1), resume=True).step == 1


def test_a_corrupt_checkpoint_is_named_and_the_older_one_offered(tmp_path):
    run = small_run(tmp_path, num_steps=4, saving=SavingConfig(every_steps=2))
    train(run)
    older, newer = checkpoints(tmp_path)
    data = bytearray((newer / "optimiser.safetensors").read_bytes())
    data[-1] ^= 1
    (newer / "optimiser.safetensors").write_bytes(data)
    with pytest.raises(
        WeightsError, match="step-00000004.*optimiser.*corrupt.*resume from step-00000002"
    ):
        train(run, resume=True)
    shutil.rmtree(newer)
    assert train(run, resume=True).step == 4


def test_another_network_is_refused(tmp_path):
    run = small_run(tmp_path, num_steps=1)
    train(run)
    wider = replace(run, model=replace(run.model, ffn_width=96))
    with pytest.raises(
        WeightsError, match=r"layers.0.ffn.down.weight is \[64, 128\] there and \[64, 96\]"
    ):
        train(wider, resume=True)


def test_a_full_disk_leaves_the_checkpoint_before_whole(tmp_path):
    resource = pytest.importorskip("resource")
    run = small_run(tmp_path, num_steps=2)
    train(run)
    before, limits = newest(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageError, match="step 3 not saved.*step-00000002 is whole"):
            train(replace(run, fit=replace(run.fit, num_steps=3)), resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["step-00000002"]
    assert_same_bits(newest(tmp_path), before)
