"""Folders and files that appear whole or not at all: written aside, synchronised, then renamed.

Used wherever a folder is written, for quantised models, reports and what the engine remembers.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from heddle.errors import StorageError


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` at the end, or vanishes if the block fails.

    Raises StorageError when the disk is full, read-only or closed to us, and when `target` exists,
    unless `overwrite`: it then stays as it is until its successor is complete.
    """
    if target.exists() and not overwrite:
        raise StorageError(f"{target} exists already: choose another folder or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}~", dir=target.parent))
    except OSError as error:
        raise storage_error(target.parent, error) from error
    before = folder.with_name(folder.name + "~before")
    try:
        yield folder
        for path in [*folder.rglob("*"), folder]:
            _synchronise(path)
        folder.chmod(0o755)
        if target.exists():
            target.rename(before)
        folder.rename(target)
        _synchronise(target.parent)
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        raise storage_error(target, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_file(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a path whose file becomes `target` at the end, or vanishes if the block fails.

    Raises StorageError as `new_folder` does.
    """
    if target.exists() and not overwrite:
        raise StorageError(f"{target} exists already: choose another name or remove it")
    unfinished = target.with_name(f".{target.name}~{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        _synchronise(unfinished)
        unfinished.replace(target)
        _synchronise(target.parent)
    except OSError as error:
        raise storage_error(target, error) from error
    finally:
        with suppress(OSError):  # it is gone if all went well, or its folder cannot be reached
            unfinished.unlink()


def write_text(path: Path, text: str) -> None:
    """Put a text file in the place of what was there. Raises StorageError when it cannot."""
    with new_file(path, overwrite=True) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return the sentence for a file that could not be written."""
    return StorageError(
        f"cannot write to {path}: {error.strerror or error}; free some space, or choose another "
        "folder (for downloaded "
        "models: set HEDDLE_CACHE)"
    )


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
