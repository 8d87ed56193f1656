"""The builds for AArch64, cross-compiled and run by an emulator, against `ref`.

On Debian: `apt install g++-aarch64-linux-gnu qemu-user`.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from heddle.kernels import ref
from heddle.kernels.packing import PackedMatrix, pack
from tests.kernels.test_cpu import large_steps, largest, quantised

COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
FOLDER = Path(__file__).parent
PROCESSORS = {"neon": "cortex-a53", "dotprod": "max"}  # the first one has no dot products
FLAGS = {"neon": [], "dotprod": ["-march=armv8.2-a+dotprod"]}

pytestmark = pytest.mark.skipif(
    not (COMPILER and EMULATOR), reason="there is no cross compiler or no emulator for AArch64"
)


def made(folder: Path, name: str, build: str) -> list[str]:
    """Compile a program and return the command that runs it."""
    program, source = str(folder / f"{name}_{build}"), str(FOLDER / f"{name}.cpp")
    options = ["-std=c++17", "-O1", "-fno-math-errno", "-pthread", "-static", *FLAGS[build]]
    subprocess.run([str(COMPILER), *options, source, "-o", program], check=True)
    return [str(EMULATOR), "-cpu", PROCESSORS[build], program]


@pytest.fixture(scope="module", params=FLAGS)
def build(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def command(build: str, tmp_path_factory) -> list[str]:
    """Return the command that multiplies in a build."""
    return made(tmp_path_factory.mktemp("aarch64"), "product", build)


def product(
    command: list[str], packed: PackedMatrix, x_ND: torch.Tensor
) -> tuple[torch.Tensor, str]:
    """Return the products that a program computes, and the build that it would choose."""
    head = [packed.rows, packed.cols, ("nibbles", "bytes").index(packed.kind), len(x_ND)]
    sent = torch.tensor(head, dtype=torch.int32).numpy().tobytes()
    sent += packed.data.numpy().tobytes() + x_ND.numpy().tobytes()
    done = subprocess.run(command, input=sent, capture_output=True, check=True, timeout=60)
    out = torch.frombuffer(bytearray(done.stdout), dtype=torch.float32)
    return out.view(len(x_ND), packed.rows), done.stderr.decode()


@pytest.mark.parametrize("format", ["Q4_1", "Q8_0"])
@pytest.mark.parametrize("rows, cols", [(1, 32), (100, 576)])
def test_products_equal_the_oracle(command, build: str, format: str, rows: int, cols: int):
    packed = pack([quantised(format, rows, cols)])
    x_ND = torch.randn(7, cols, generator=torch.Generator().manual_seed(1))
    out, best = product(command, packed, x_ND)
    expected = ref.product(packed, x_ND)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-4 * cols**0.5)
    assert best == build


@pytest.mark.parametrize("kind", ["nibbles", "bytes"])
@pytest.mark.parametrize("low", [0, 127, -127, -128])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_integers_do_not_overflow(command, kind, low: int, sign: int):
    x_ND = large_steps(low) * sign
    out = product(command, largest(kind), x_ND)[0]
    assert torch.equal(out.double(), ref.product(largest(kind), x_ND))


@pytest.mark.timeout(300)  # most of it is compiling, on what may be a busy machine
def test_layers_compute_the_same_however_rows_are_batched(tmp_path):
    """One build stands for both: only products differ."""
    done = subprocess.run(made(tmp_path, "driver", "dotprod"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
