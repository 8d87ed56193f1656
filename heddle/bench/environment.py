"""What a figure depends on besides the code: the machine and the versions of what ran on it.

Part of every report of `heddle bench`, and what `heddle version` prints.
"""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import torch

from heddle import __version__

PACKAGES = ("torch", "tokenizers", "llguidance", "transformers", "llama-cpp-python")


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_environment() -> dict[str, str | int | dict[str, str]]:
    """Return the machine and the versions; only installed packages are named."""
    return {
        "heddle": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": num_cores(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "packages": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
