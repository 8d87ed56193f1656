"""The native kernels against `ref`, on every instruction set that this machine can run."""

import os
import subprocess
import sys
import threading

import gguf
import numpy as np
import pytest
import torch

from heddle.kernels import ref
from heddle.kernels.cpu import Kernels, available
from heddle.kernels.packing import (
    KINDS,
    LARGE_PAGE,
    ROOM_BYTES,
    Kind,
    PackedMatrix,
    Room,
    can_pack,
    pack,
    turn_by_turn,
)
from heddle.kernels.parts import Matrix
from heddle.kernels.quant import QuantTensor
from heddle.model.config import RopeConfig
from heddle.model.rope import Rope

BUILDS = available()
pytestmark = pytest.mark.skipif(not BUILDS, reason="no C++ compiler was there at installation")


@pytest.fixture(params=BUILDS, scope="module")
def kernels(request) -> Kernels:
    return Kernels(request.param, num_threads=2)


def quantised(format: str, rows: int, cols: int, *, seed: int = 0) -> QuantTensor:
    numbers = np.random.default_rng(seed).normal(size=(rows, cols)).astype(np.float32)
    blocks = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[format])
    return QuantTensor(format, torch.from_numpy(blocks))


def largest(kind: Kind) -> PackedMatrix:
    """Return 16 rows of 32 weights, all 15 or -128."""
    scale = torch.ones(1, 1, 16, dtype=torch.float16).view(torch.uint8)
    if kind == "nibbles":
        parts = [torch.full((1, 1, 256), 255, dtype=torch.uint8), scale, scale * 0]
    else:
        parts = [torch.full((1, 1, 512), 128, dtype=torch.uint8), scale]
    return PackedMatrix(kind, 16, 32, torch.cat(parts, dim=2))


def large_steps(low: int) -> torch.Tensor:
    """Return a row of numbers as large as fits, in steps of 1, whose low parts are alike."""
    x_ND = torch.full((1, 32), 126.0 * 256 + low)
    x_ND[0, 0] = 127.0 * 256
    return x_ND


@pytest.mark.parametrize("format", KINDS)
@pytest.mark.parametrize("rows, cols", [(1, 32), (16, 64), (100, 576), (33, 1536)])
def test_packing_keeps_every_number(format, rows, cols):
    tensor = quantised(format, rows, cols)
    packed = pack([tensor[: rows // 2], tensor[rows // 2 :]])
    assert (packed.rows, packed.cols) == (rows, cols)
    assert torch.equal(ref.numbers(packed), tensor.dequantize())


def test_only_what_can_stay_as_it_is_is_packed():
    q4, q8 = quantised("Q4_1", 16, 32), quantised("Q8_0", 16, 32)
    assert can_pack([q4, q4]) and can_pack([q8])
    assert not can_pack([q4, q8]) and not can_pack([torch.zeros(16, 32)]) and not can_pack([])


def test_gates_and_ups_in_turns():
    tensor = quantised("Q4_1", 192, 64)
    packed = pack([tensor])
    turn_by_turn(packed)
    gates, ups = tensor.dequantize().chunk(2)
    in_turns = torch.stack([gates.view(3, 32, 64), ups.view(3, 32, 64)], dim=1).flatten(0, 2)
    assert torch.equal(ref.numbers(packed), in_turns)


def test_what_lies_in_one_room_does_not_overlap():
    room = Room()
    tensors = [room.empty(*shape) for shape in ((3, 5), (1,), (ROOM_BYTES + 1,), (64, 2), (0,))]
    for number, tensor in enumerate(tensors):
        tensor.fill_(number)
    assert all((tensor == number).all() for number, tensor in enumerate(tensors))
    assert tensors[0].data_ptr() % LARGE_PAGE == tensors[2].data_ptr() % LARGE_PAGE == 0
    packed = pack([quantised("Q8_0", 48, 96)], Room())
    assert torch.equal(packed.data, pack([quantised("Q8_0", 48, 96)]).data)


@pytest.mark.parametrize("format", KINDS)
@pytest.mark.parametrize("rows, cols", [(1, 32), (16, 64), (100, 576), (33, 1536)])
def test_products_equal_the_oracle(kernels, format, rows, cols):
    packed = pack([quantised(format, rows, cols)])
    bias = torch.randn(rows)
    x_ND = torch.randn(7, cols, generator=torch.Generator().manual_seed(1))
    out = kernels.product(Matrix(packed, bias), x_ND)
    expected = ref.product(packed, x_ND) + bias
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-4 * cols**0.5)


@pytest.mark.parametrize("format", KINDS)
def test_a_row_does_not_depend_on_its_neighbours(kernels, format):
    matrix = Matrix(pack([quantised(format, 48, 96)]))
    x_ND = torch.randn(13, 96)
    alone = [kernels.product(matrix, x_ND[n : n + 1]) for n in range(13)]
    assert torch.equal(kernels.product(matrix, x_ND), torch.cat(alone))


@pytest.mark.parametrize("kind", ["nibbles", "bytes"])
@pytest.mark.parametrize("low", [0, 127, -127, -128])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_integers_do_not_overflow(kernels, kind, low: int, sign: int):
    x_ND = large_steps(low) * sign
    out = kernels.product(Matrix(largest(kind)), x_ND)
    assert torch.equal(out.double(), ref.product(largest(kind), x_ND))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_a_number_shows(kernels, bad):
    matrix = Matrix(pack([quantised("Q4_1", 16, 64)]))
    x_ND = torch.zeros(2, 64)
    x_ND[1, 40] = bad
    out = kernels.product(matrix, x_ND)
    assert out[0].eq(0).all() and out[1].isnan().all()


def test_weights_that_are_not_numbers_show(kernels):
    tensor = quantised("Q8_0", 16, 32)
    tensor.data[3, :2] = torch.tensor([0, 126], dtype=torch.uint8)  # float16 NaN: 0x7e00
    out = kernels.product(Matrix(pack([tensor])), torch.ones(1, 32))
    assert out[0, 3].isnan() and out[0, [0, 1, 2, 4, 15]].isfinite().all()


@pytest.mark.parametrize("format", KINDS)
def test_rows_are_numbers_again(kernels, format):
    tensor = quantised(format, 40, 96)
    rows = torch.tensor([39, 0, 17, 17])
    assert torch.equal(kernels.rows(Matrix(pack([tensor])), rows), tensor.dequantize()[rows])


@pytest.mark.parametrize("row", [-1, 40])
def test_a_row_that_is_not_there(kernels, row):
    with pytest.raises(AssertionError, match="there are rows 0 to 39"):
        kernels.rows(Matrix(pack([quantised("Q8_0", 40, 96)])), torch.tensor([3, row]))


def test_norms_equal_pytorchs(kernels):
    x_ND, weight_D = torch.randn(5, 96), torch.randn(96)
    expected = torch.nn.functional.rms_norm(x_ND, (96,), weight_D, 1e-5)
    torch.testing.assert_close(kernels.normalise(x_ND, weight_D, eps=1e-5), expected)
    assert kernels.normalise(x_ND.t()[:, :1].expand(-1, 16), weight_D[:16], eps=0.1).shape == (
        96,
        16,
    )


@pytest.mark.parametrize("config", [RopeConfig(), RopeConfig(base=5e5, kind="linear", factor=4.0)])
def test_angles_equal_the_networks(kernels, config):
    rope, position_T = Rope(config, head_width=48), torch.tensor([0, 7, 8191, 1_000_000])
    expected = rope(position_T, torch.float32)
    found = kernels.angles(position_T, rope.frequencies, magnitude=rope.magnitude)
    for part, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(part, exact, atol=2e-7, rtol=0)


@pytest.mark.parametrize("num_threads", [1, 2, 3, 64, 100_000])
def test_any_number_of_threads(num_threads):
    kernels = Kernels(BUILDS[0], num_threads=num_threads)
    packed = pack([quantised("Q4_1", 512, 64)])
    x_ND = torch.randn(3, 64)
    expected = ref.product(packed, x_ND)
    for _ in range(50):
        out = kernels.product(Matrix(packed), x_ND)
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-3)


def test_a_forked_process_computes_too():
    """A child has none of its parent's threads."""
    code = """
import os, sys, torch
from tests.kernels.test_cpu import BUILDS, Kernels, Matrix, pack, quantised
kernels = Kernels(BUILDS[0], num_threads=4)
matrix, x = Matrix(pack([quantised("Q4_1", 512, 64)])), torch.ones(2, 64)
expected = kernels.product(matrix, x)
child = os.fork()
if child == 0:
    same = torch.equal(kernels.product(matrix, x), expected)
    del kernels
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be pinned here")
def test_a_stolen_core_slows_and_does_not_stop():
    """Four threads on one core, which another process keeps busy."""
    code = """
import os, time, torch
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
busy = os.fork()
while busy == 0:
    pass
from tests.kernels.test_cpu import BUILDS, Kernels, Matrix, pack, quantised
kernels = Kernels(BUILDS[0], num_threads=4)
matrix, x = Matrix(pack([quantised("Q4_1", 512, 64)])), torch.ones(1, 64)
started = time.perf_counter()
for _ in range(300):
    kernels.product(matrix, x)
os.kill(busy, 9)
assert time.perf_counter() - started < 20
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_calls_let_other_python_threads_run():
    kernels = Kernels(BUILDS[0], num_threads=1)
    matrix = Matrix(pack([quantised("Q8_0", 4096, 1024)]))
    ticks, ends = [0], threading.Event()

    def tick() -> None:
        while not ends.is_set():
            ticks[0] += 1

    ticker = threading.Thread(target=tick)
    ticker.start()
    before = ticks[0]
    kernels.product(matrix, torch.randn(1024, 1024))
    during = ticks[0] - before
    ends.set()
    ticker.join()
    assert during > 100
