"""What `heddle serve` does so that it starts quickly and holds little memory once it is ready."""

import ctypes
import gc
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CODE, PYTORCH = "r-xp", "/torch/lib/"  # in /proc/self/maps, which proc(5) describes


@contextmanager
def without_collecting() -> Iterator[None]:
    """Import without looking for garbage, which imports make next to none of.

    Looking takes a quarter of the time. No later collection goes through what was imported.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def give_back_memory() -> None:
    """Return to the system what only the start needed. Linux only.

    glibc keeps what was freed between pieces that are in use, until it is told to trim.
    """
    gc.collect()
    gc.freeze()
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # other libraries than glibc have none, and keep less
        libc.malloc_trim(0)
    _unmap_code(libc)


def _unmap_code(libc: ctypes.CDLL) -> None:
    """Let go of the pages of PyTorch's code: serving runs through a third of what importing did.

    They stay in the system's page cache, from where those that run again are mapped again.
    """
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        span, access, *_, name = line.split(maxsplit=5)
        if access == CODE and PYTORCH in name:
            first, end = (int(address, 16) for address in span.split("-"))
            libc.madvise(first, end - first, mmap.MADV_DONTNEED)
