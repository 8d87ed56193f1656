"""Two gloo ranks against one process: same global batch, float32 equal to 1e-5 after five steps."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from heddle.train.dist import load_shards
from heddle.weights.store import SHARDS, Tensors, checkpoints, read_record
from tests.train.processes import ROOT, ended, long_run, started, wait_for_steps
from tests.train.small import newest, small_run, train

FIELDS = {"num_steps": 5, "num_microbatches": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Hold what one process and what two made."""
    folder = tmp_path_factory.mktemp("ranks")
    train(small_run(folder / "muon", **FIELDS))
    train(small_run(folder / "adamw", hidden="adamw", **FIELDS))
    train(small_run(folder / "early", **(FIELDS | {"num_steps": 3})))
    run = "torch.distributed.run --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:0"
    done = subprocess.run(
        [sys.executable, "-m", *run.split(), Path(__file__).with_name("two_ranks.py"), folder],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return folder


def whole(folder: Path) -> Tensors:
    """Read the newest checkpoint, in either form."""
    shards = checkpoints(folder)[-1] / SHARDS
    if not shards.exists():
        return newest(folder)
    read = load_shards(shards, {})
    return Tensors(
        model={name: value for name, value in read.items() if ":" not in name},
        optimiser={name: value for name, value in read.items() if ":" in name},
    )


@pytest.mark.parametrize(
    ("on_two", "on_one"),
    [
        ("ddp", "muon"),
        ("fsdp-muon", "muon"),
        ("fsdp-adamw", "adamw"),
        ("three", "muon"),
        ("on-two", "muon"),
    ],
)
def test_two_ranks_equal_one_process(folder, on_two, on_one):
    ours, theirs = whole(folder / on_two), whole(folder / on_one)
    torch.testing.assert_close(ours.model, theirs.model, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.optimiser, theirs.optimiser, atol=1e-5, rtol=1e-5)


def test_what_two_ranks_saved_one_resumes(folder, tmp_path):
    run = small_run(tmp_path, **FIELDS)
    shutil.copytree(folder / "three" / "step-00000003", tmp_path / "step-00000003")
    assert train(run, resume=True).step == 5
    ours, theirs = newest(tmp_path), newest(folder / "muon")
    torch.testing.assert_close(ours.model, theirs.model, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["ddp", "fsdp-muon"])
def test_figures_are_written_once_and_count_all_ranks(folder, name):
    one, two = (
        [json.loads(line) for line in (folder / each / "metrics.jsonl").read_text().splitlines()]
        for each in ("muon", name)
    )
    assert [line["tokens"] for line in two] == [line["tokens"] for line in one]
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one])


def test_bfloat16_shards_keep_float32_masters(folder):
    ours, theirs = whole(folder / "bfloat16"), whole(folder / "muon")
    assert all(tensor.dtype == torch.float32 for tensor in ours.model.values())
    torch.testing.assert_close(ours.model, theirs.model, atol=0.02, rtol=0.1)


def test_a_killed_rank_ends_the_other_and_the_run_resumes(tmp_path):
    run = long_run(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    first, second = (shared | {"RANK": rank, "TORCHELASTIC_RUN_ID": "test"} for rank in ("0", "1"))
    with started(run, environment=first) as survivor:
        with started(run, environment=second):
            wait_for_steps(tmp_path, 10)
        code, told = ended(survivor)
    assert code == 1 and "TrainingError: another process of this run has stopped" in told
    assert "start all of them again with --resume" in told
    saved = read_record(checkpoints(tmp_path)[-1])
    assert 4 <= saved.step < run.fit.num_steps
    result = train(replace(run, fit=replace(run.fit, num_steps=saved.step + 2)), resume=True)
    assert result.step == saved.step + 2
