"""Training state on disk: saved whole or not at all, verified when read. Used by `train/saving`.

FOLDER/step-00000300/
    state.json              step, place in the data, resolved configuration, latest metrics
    model.safetensors       float32 weights and buffers that train, by parameter name
    optimiser.safetensors   the optimisers' tensors, as PARAMETER:KEY
    shards/                 in place of the two, when ranks each wrote their part
    manifest.json           version, and size and SHA-256 of every other file; written last
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from heddle.errors import StorageError, WeightsError
from heddle.weights.atomic import new_folder

VERSION = 1
SHARDS = "shards"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a checkpoint says beside its tensors; all of it JSON. `cursor` None is the start."""

    step: int
    cursor: Mapping[str, Any] | None
    configuration: Mapping[str, Any]
    metrics: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """The two families of tensors that training changes."""

    model: dict[str, Tensor]
    optimiser: dict[str, Tensor]


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, oldest first."""
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", p.name))


@contextmanager
def new_checkpoint(folder: Path, record: Record, *, keep: int) -> Iterator[Path]:
    """Yield an empty folder for the tensors that becomes the newest checkpoint.

    What killed processes left half-written is removed first, all but the `keep` newest checkpoints
    afterwards. Raises StorageError when there is no room; what was there before is then untouched.
    """
    for leftover in folder.glob(".step-*~*"):
        shutil.rmtree(leftover, ignore_errors=True)
    before = checkpoints(folder)
    try:
        with new_folder(folder / f"step-{record.step:08d}") as unfinished:
            yield unfinished
            _write_json(unfinished / "state.json", asdict(record))
            _write_json(
                unfinished / "manifest.json",
                {"version": VERSION, "files": _describe(unfinished)},
            )
    except (StorageError, SafetensorError) as error:
        kept = f"{before[-1]} is whole" if before else "there is no earlier checkpoint"
        raise StorageError(
            f"checkpoint of step {record.step} not saved: {error}; {kept}"
        ) from error
    for path in checkpoints(folder)[:-keep]:
        shutil.rmtree(path)


def write_tensors(folder: Path, tensors: Tensors) -> None:
    """Write both families as safetensors."""
    for name, family in (("model", tensors.model), ("optimiser", tensors.optimiser)):
        whole = {key: tensor.detach().contiguous() for key, tensor in family.items()}
        save_file(whole, folder / f"{name}.safetensors")


def read_tensors(path: Path) -> Tensors:
    """Read what `write_tensors` wrote, onto the CPU."""
    return Tensors(
        model=load_file(path / "model.safetensors"),
        optimiser=load_file(path / "optimiser.safetensors"),
    )


def read_record(path: Path) -> Record:
    """Verify a checkpoint's files and return its record.

    Raises WeightsError that names the damaged file, and the next older checkpoint.
    """
    fault = _fault(path)
    if fault:
        older = [other for other in checkpoints(path.parent) if other.name < path.name]
        advice = f"delete that folder to resume from {older[-1].name}" if older else "start anew"
        raise WeightsError(f"checkpoint {path} cannot be used: {fault}; {advice}")
    return Record(**json.loads((path / "state.json").read_text(encoding="utf-8")))


def _fault(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, if anything."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        version, files = manifest["version"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return "manifest.json is missing or unreadable"
    if version != VERSION:
        return f"it has format version {version}, and this Heddle reads version {VERSION}"
    found = _describe(path)
    for name, description in files.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != description:
            return f"{name} is corrupt: its size or SHA-256 is not the manifest's"
    return None


def _describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and hash of every file but the manifest."""
    described = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            name = path.relative_to(folder).as_posix()
            described[name] = {"size_bytes": path.stat().st_size, "sha256": digest}
    return described


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
