"""Two gloo ranks against one process: same global batch, float32 equal to 3e-5 after three steps.

The network has experts and loops; ranks have unequal tokens and loops in every micro-batch.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from heddle.train.dist import load_shards
from heddle.weights.store import SHARDS, Tensors, checkpoints
from tests.train.processes import ROOT
from tests.train.routed import routed_run
from tests.train.small import newest
from tests.train.small import train as train_small
from tests.train.unequal import train, unequal_model

pytestmark = pytest.mark.timeout(300)  # two processes share what may be a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Hold what one process and what two made."""
    folder = tmp_path_factory.mktemp("ranks")
    train(folder / "one")
    train(folder / "one-adamw", hidden="adamw")
    train(folder / "one-frozen", frozen="*attention*")
    train(folder / "early", num_steps=2)
    train_small(routed_run(folder / "one-routed"))
    run = "torch.distributed.run --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:0"
    done = subprocess.run(
        [sys.executable, "-m", *run.split(), Path(__file__).with_name("two_ranks.py"), folder],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
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


def assert_close(ours: Tensors, theirs: Tensors) -> None:
    torch.testing.assert_close(ours.model, theirs.model, atol=3e-5, rtol=1e-5)
    torch.testing.assert_close(ours.optimiser, theirs.optimiser, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("on_two", "on_one"),
    [
        *((parallel, "one") for parallel in ("ddp", "fsdp", "expert")),
        *((f"{parallel}-from-one", "one") for parallel in ("ddp", "fsdp", "expert")),
        *((f"{parallel}-routed", "one-routed") for parallel in ("ddp", "fsdp", "expert")),
        ("expert-frozen", "one-frozen"),
        ("expert-adamw", "one-adamw"),
    ],
)
def test_two_ranks_equal_one_process(folder, on_two, on_one):
    assert_close(whole(folder / on_two), whole(folder / on_one))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp", "expert"])
def test_what_two_ranks_saved_one_resumes(folder, tmp_path, parallel):
    shutil.copytree(folder / parallel / "step-00000002", tmp_path / "step-00000002")
    assert train(tmp_path, resume=True).step == 3
    assert_close(newest(tmp_path), newest(folder / "one"))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp", "expert"])
def test_figures_are_written_once_and_count_all_ranks(folder, parallel):
    one, two = (
        [json.loads(line) for line in (folder / each / "metrics.jsonl").read_text().splitlines()]
        for each in ("one", parallel)
    )
    assert [line["tokens"] for line in two] == [line["tokens"] for line in one]
    for name in ("loss", "gradient_norm", "loops"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one]), name


def test_bfloat16_shards_keep_float32_masters(folder):
    ours, theirs = whole(folder / "expert-bfloat16"), whole(folder / "one")
    assert all(tensor.dtype == torch.float32 for tensor in ours.model.values())
    torch.testing.assert_close(ours.model, theirs.model, atol=0.02, rtol=0.1)


def test_under_expert_a_rank_holds_its_share_of_the_experts(folder):
    held = [json.loads((folder / f"expert-bytes-{rank}.json").read_text()) for rank in (0, 1)]
    parameters = sum(
        parameter.numel() * 4
        for name, parameter in unequal_model().named_parameters()
        if name.endswith(("experts.gate", "experts.up", "experts.down"))
    )
    # Of 29 columns, and as much again for Muon's momentum.
    assert max(held) <= 2 * parameters * 15 / 29 and sum(held) >= 2 * parameters
