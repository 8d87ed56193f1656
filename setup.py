"""Builds the native kernels, one library for each instruction set, where there is a compiler.

Without one the installation succeeds, and the engine computes with PyTorch. Everything else about
the package stands in pyproject.toml.
"""

import platform
from glob import glob

from setuptools import Extension, setup

FOLDER = "heddle/kernels/native"
HEADERS = sorted(glob(f"{FOLDER}/*.h"))
# What each build may use; `heddle_best` in cpu.cpp says which of them a processor has.
FLAGS = {"portable": ["-DHEDDLE_PORTABLE"]}
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    FLAGS["avx512"] = [*FLAGS["avx2"], "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"]
elif platform.machine() in ("aarch64", "arm64"):
    FLAGS["neon"] = []
    FLAGS["dotprod"] = ["-march=armv8.2-a+dotprod"]

setup(
    ext_modules=[
        Extension(
            f"heddle.kernels._cpu_{name}",
            sources=[f"{FOLDER}/cpu.cpp"],
            depends=HEADERS,
            # Stepping over GCC's bug 105593, a warning about its own headers.
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-pthread",
                "-Wno-maybe-uninitialized",
                *flags,
            ],  # fmt: skip
            extra_link_args=["-pthread"],
            optional=True,
        )
        for name, flags in FLAGS.items()
    ]
)
