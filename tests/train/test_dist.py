"""A process whose partner is killed."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from heddle.weights.store import checkpoints, read_record
from tests.train.processes import SETTINGS, SMALL, ended, long_run, started, wait_for_steps
from tests.train.small import RECIPE, train

UNEQUAL = str(Path(__file__).with_name("unequal.py"))


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [(RECIPE, SMALL), (UNEQUAL, (*SETTINGS, "fit.parallel=expert"))],
    ids=["ddp", "expert"],
)
def test_a_killed_rank_ends_the_other_and_the_run_resumes(tmp_path, recipe, settings):
    what = {"recipe": recipe, "settings": settings}
    run = long_run(tmp_path, **what)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    first, second = (shared | {"RANK": rank, "TORCHELASTIC_RUN_ID": "test"} for rank in ("0", "1"))
    with started(run, environment=first, **what) as survivor:
        with started(run, environment=second, **what):
            wait_for_steps(tmp_path, 10)
        code, told = ended(survivor)
    assert code == 1 and "TrainingError: another process of this run has stopped" in told
    assert "start all of them again with --resume" in told
    saved = read_record(checkpoints(tmp_path)[-1])
    assert 4 <= saved.step < run.fit.num_steps
    result = train(replace(run, fit=replace(run.fit, num_steps=saved.step + 2)), resume=True)
    assert result.step == saved.step + 2
