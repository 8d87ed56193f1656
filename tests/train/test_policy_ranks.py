"""Preferences and rewards on two gloo ranks against one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train import test_preference, test_rl
from tests.train.processes import ROOT
from tests.train.test_parallel import whole
from tests.train.two_policy_ranks import preferences, rewards


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Hold what one process and what two made."""
    folder = tmp_path_factory.mktemp("ranks")
    test_rl.train(folder / "rewards", rewards(), num_steps=2)
    test_preference.train(folder / "preferences", preferences(), num_steps=2, num_microbatches=2)
    run = "torch.distributed.run --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:0"
    script = Path(__file__).with_name("two_policy_ranks.py")
    done = subprocess.run(
        [sys.executable, "-m", *run.split(), script, folder],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("on_two", "on_one"),
    [
        ("rewards-ddp", "rewards"),
        ("preferences-ddp", "preferences"),
        ("preferences-fsdp", "preferences"),
    ],
)
def test_two_ranks_equal_one_process(folder, on_two, on_one):
    ours, theirs = whole(folder / on_two), whole(folder / on_one)
    torch.testing.assert_close(ours.model, theirs.model, atol=1e-5, rtol=1e-4)
