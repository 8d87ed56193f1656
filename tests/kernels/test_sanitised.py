"""The kernels under the sanitisers of GCC or Clang: addresses, undefined behaviour, races."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from heddle.kernels.cpu import available

COMPILER = shutil.which("g++") or shutil.which("clang++")
DRIVER = Path(__file__).parent / "driver.cpp"
FLAGS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": [
        "-mavx2",
        "-mfma",
        "-mf16c",
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512vnni",
    ],
}
BEST = available()[0] if available() else "portable"
CHECKS = [(BEST, "address,undefined"), (BEST, "thread"), ("portable", "address,undefined")]


@pytest.mark.timeout(300)  # most of it is compiling, on what may be a busy machine
@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("build, sanitiser", CHECKS)
def test_the_driver_finds_nothing(tmp_path, build: str, sanitiser: str):
    assert COMPILER is not None
    program = tmp_path / "driver"
    flags = ["-std=c++17", "-O1", "-fno-math-errno", "-pthread", *FLAGS[build]]
    flags += [f"-fsanitize={sanitiser}", "-fno-sanitize-recover=all"]
    subprocess.run([COMPILER, *flags, str(DRIVER), "-o", str(program)], check=True)
    # A fork of many threads is what one test is about; TSan would rather end it.
    options = {"TSAN_OPTIONS": "die_after_fork=0", "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([program], env=os.environ | options, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
