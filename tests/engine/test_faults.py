"""Odd shapes, corrupt numbers, stolen cores, interrupts: an error or a correct answer, no hang."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.errors import ConfigError, EngineError, WeightsError
from heddle.kernels.cpu import available
from heddle.weights.checkpoint import open_checkpoint
from heddle.weights.quantise import quantise
from tests.engine.collect import ask
from tests.serving import ROOT
from tests.tiny import save_tiny
from tests.weights.gguf_files import TINY, random_tensors, write_gguf

PROMPT = list(range(10, 60))


def answer(path: Path, **settings) -> list[int]:
    engine = Engine.load(path, EngineConfig(threads=1, **settings))
    tokens = ask(engine, PROMPT, 8).tokens
    engine.close()
    return tokens


@pytest.mark.parametrize(
    "shape",
    [
        {"num_heads": 3, "num_kv_heads": 1},
        {"num_heads": 5, "num_kv_heads": 5},
        {"num_heads": 7, "num_kv_heads": 1, "head_width": 8},
        {"ffn_width": 100},  # down's rows are no whole blocks and stay float32
        {"width": 80, "num_heads": 5, "num_kv_heads": 1, "ffn_width": 128},  # nearly nothing fits
    ],
    ids=str,
)
def test_odd_shapes_answer_as_pytorch_does(tmp_path, shape):
    """Quantised where rows are whole blocks of 32, by kernels where they can."""
    path = tmp_path / "model.gguf"
    quantise(open_checkpoint(save_tiny(tmp_path / "float", **shape)), path, "Q8_0")
    assert answer(path) == answer(path, kernels="torch")


@pytest.mark.parametrize("format", ["F32", "Q4_1"])
def test_weights_that_are_not_numbers_are_an_error(tmp_path, format):
    tensors = random_tensors(TINY)
    tensors["blk.1.ffn_norm.weight"][5] = float("nan")
    path = write_gguf(tmp_path / "model.gguf", tensors=tensors, format=format)
    engine = Engine.load(path, EngineConfig(threads=1))
    finished = ask(engine, PROMPT, 8).finished
    assert finished.reason == "error" and finished.num_new_tokens == 0
    assert isinstance(finished.error, EngineError)
    assert "not a number: its weights are corrupt" in str(finished.error)
    engine.close()


@pytest.mark.parametrize(
    ("name", "lie"),
    [
        ("blk.0.ffn_down.weight", lambda shape: shape[::-1]),
        ("blk.1.attn_k.weight", lambda shape: (2 * shape[0], shape[1])),
        ("blk.1.attn_norm.weight", lambda shape: (shape[0] // 2,)),
        ("output_norm.weight", lambda shape: (1, *shape)),
    ],
)
def test_tensors_that_lie_about_their_shape_are_named(tmp_path, name, lie):
    tensors = random_tensors(TINY)
    [rows, *rest] = lie(tensors[name].shape)
    tensors[name] = tensors[name].repeat(4).reshape(-1)[: rows * (rest or [1])[0]]
    tensors[name] = tensors[name].reshape(rows, *rest)
    path = write_gguf(tmp_path / "model.gguf", tensors=tensors)
    with pytest.raises(WeightsError, match=rf"{name}.*contradicts itself"):
        Engine.load(path, EngineConfig(threads=1))


@pytest.mark.parametrize(
    ("threads", "bound"), [(0, "at least 1"), (-1, "at least 1"), (10_000, "at most")]
)
def test_absurd_numbers_of_threads_are_refused(threads, bound):
    with pytest.raises(ConfigError, match=rf"threads must be {bound}.*not {threads}"):
        EngineConfig(threads=threads)


def run_in_child(code: str, *arguments: str) -> None:
    """Run code in a process of its own, whose threads and signals are its own."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be pinned here")
def test_a_core_taken_away_in_the_middle_of_an_answer(tmp_path):
    """From the tenth token on another process holds one core, and all threads are left with it."""
    path = write_gguf(tmp_path / "model.gguf", config=replace(TINY, width=96), format="Q4_1")
    code = """
import os, sys, time
from pathlib import Path
from tests.engine.test_faults import *
engine = Engine.load(Path(sys.argv[1]), EngineConfig(threads=2))
expected = ask(engine, PROMPT, 150).tokens
started, asked = time.perf_counter(), ask(engine, PROMPT[::-1], 150)
for _ in range(10):
    asked.next()
core = {min(os.sched_getaffinity(0))}
busy = os.fork()
if busy == 0:
    os.sched_setaffinity(0, core)
    while True:
        pass
for thread in os.listdir("/proc/self/task"):
    os.sched_setaffinity(int(thread), core)
stolen = asked.tokens
assert time.perf_counter() - started < 40
os.kill(busy, 9)
assert ask(engine, PROMPT[::-1], 150).tokens == stolen
assert ask(engine, PROMPT, 150).tokens == expected
engine.close()
"""
    run_in_child(code, str(path))


@pytest.mark.skipif(not available(), reason="no C++ compiler was there at installation")
def test_an_interrupt_during_a_kernel_ends_the_loop_and_harms_nothing():
    code = """
import os, signal, threading, torch
from tests.kernels.test_cpu import BUILDS, Kernels, Matrix, pack, quantised
signal.signal(signal.SIGINT, signal.default_int_handler)
kernels = Kernels(BUILDS[0], num_threads=2)
matrix, x = Matrix(pack([quantised("Q8_0", 2048, 1024)])), torch.randn(256, 1024)
expected = kernels.product(matrix, x)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    while True:
        kernels.product(matrix, x)
except KeyboardInterrupt:
    pass
assert torch.equal(kernels.product(matrix, x), expected)
"""
    run_in_child(code)


def test_without_a_compiler_the_build_succeeds_and_pytorch_computes(tmp_path):
    source, built = tmp_path / "source", tmp_path / "built"
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "node_modules", "src")
    shutil.copytree(ROOT / "heddle", source / "heddle", ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    empty = tmp_path / "bin"
    empty.mkdir()
    hidden = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX")}
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-lib", str(built)],
        cwd=source,
        env=hidden | {"PATH": str(empty)},
        check=True,
        capture_output=True,
        timeout=100,
    )
    assert (built / "heddle" / "bench" / "quality.txt").is_file()
    assert not list(built.rglob("*.so"))
    path = write_gguf(tmp_path / "model.gguf", format="Q4_1")
    code = """
import sys
from pathlib import Path
import heddle
from heddle.cli.serve import _computing, _log
from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.engine.request import Finished, Request
import queue
_log()
assert Path(heddle.__file__).is_relative_to(sys.argv[2])
engine = Engine.load(Path(sys.argv[1]), EngineConfig(threads=1))
events = queue.SimpleQueue()
engine.submit(Request(request_id="1", prompt=(5, 6, 7), max_new_tokens=4), events.put)
while not isinstance(event := events.get(timeout=60), Finished):
    pass
assert event.num_new_tokens and event.error is None
print(_computing(engine.kernels))
engine.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(built)],
        cwd=tmp_path,
        env=hidden | {"PYTHONPATH": str(built)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "PyTorch, no native kernels"
    assert "kernels=none reason=not_built" in done.stderr
