"""Delta checkpoints: what Heddle adds to a dense model, and which model that is.

FOLDER/
    delta.json             version, the base (where it is, its hash), the adaptive configuration
    delta.safetensors      our tensors, by parameter name

Written by `heddle upcycle` and the trainer, read by `checkpoint.open_checkpoint`. The base is never
copied: one download serves every delta over it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from heddle.errors import ConfigError, HeddleError, StorageError, WeightsError
from heddle.model.config import Expert, FabricConfig, ModelConfig, ThinkConfig
from heddle.model.presets import adapted
from heddle.model.transformer import Transformer
from heddle.weights.atomic import new_folder
from heddle.weights.contents import Checkpoint, Part, count_words
from heddle.weights.dense import open_dense
from heddle.weights.fields import Fields, read_json
from heddle.weights.hub import resolve

VERSION = 1
DESCRIPTION = "delta.json"
TENSORS = "delta.safetensors"


class _Both(Mapping[str, list[Part]]):
    """Our tensors and the base's, read when they are looked up."""

    def __init__(self, own: Mapping[str, list[Part]], base: Mapping[str, list[Part]]):
        self._own, self._base = own, base

    def __getitem__(self, name: str) -> list[Part]:
        return self._own[name] if name in self._own else self._base[name]

    def __iter__(self) -> Iterator[str]:
        return chain(self._own, self._base)

    def __len__(self) -> int:
        return len(self._own) + len(self._base)


@dataclass(frozen=True, kw_only=True)
class Base:
    """The dense model of a delta: where `hub.resolve` finds it, and the hash of its weights."""

    spec: str
    sha256: str


def upcycle(spec: str, target: Path, *, seed: int = 0) -> Checkpoint:
    """Give a dense model a fabric and a thinking block, new and still silent; write the delta.

    Logits at one loop are the base's, bit for bit. Raises ConfigError for a base that is too
    shallow, StorageError when `target` exists or cannot be written.
    """
    path = resolve(spec)
    base = open_dense(path)
    config = adapted(base.config)
    torch.manual_seed(seed)
    fresh = Transformer(config).state_dict()
    write_delta(
        target,
        Base(
            spec=str(path.resolve()) if Path(spec).expanduser().exists() else spec,
            sha256=model_sha256(path),
        ),
        config,
        {name: fresh[name] for name in new_names(config, base)},
    )
    return read_delta(target)


def new_names(config: ModelConfig, base: Checkpoint) -> list[str]:
    """Return the parameters and buffers of a network that its dense base lacks."""
    with torch.device("meta"):
        names = Transformer(config).state_dict()
    return [name for name in names if name not in base.tensors and name != "head.weight"]


def write_delta(
    target: Path, base: Base, config: ModelConfig, tensors: Mapping[str, Tensor]
) -> None:
    """Write `target`, which must not exist yet; it appears only when it is complete."""
    if target.exists():
        raise StorageError(f"{target} exists already: choose another folder or remove it")
    document = {
        "version": VERSION,
        "base": asdict(base),
        "fabric": asdict(config.fabric) if config.fabric else None,
        "think": asdict(config.think) if config.think else None,
    }
    with new_folder(target) as folder:
        (folder / DESCRIPTION).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / TENSORS)


def read_delta(path: Path) -> Checkpoint:
    """Open a delta over its base; a WeightsError says what of either is missing or another."""
    fields = Fields(path / DESCRIPTION, read_json(path / DESCRIPTION))
    if fields.get("version", int) != VERSION:
        raise WeightsError(
            f"{fields.path}: version {fields.get('version', int)} is of another release of Heddle; "
            f"this one reads version {VERSION}"
        )
    base = _open_base(Fields(fields.path, fields.get("base", dict)))
    config = _adaptive_config(fields, base.config)
    tensors = _read_tensors(path / TENSORS, new_names(config, base), config)
    num_new = sum(tensor.numel() for tensor in tensors.values())
    return replace(
        base,
        name=path.resolve().name.lower(),
        path=path,
        config=config,
        tensors=_Both({name: [tensor] for name, tensor in tensors.items()}, base.tensors),
        size_bytes=base.size_bytes + (path / TENSORS).stat().st_size,
        description=f"{count_words(num_new)} over {base.name} ({base.description})",
    )


def model_sha256(path: Path) -> str:
    """Return the hash of a model's weights: of a .gguf file, or of a folder's files in order."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    digest = hashlib.sha256()
    for name in files:
        with name.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _open_base(fields: Fields) -> Checkpoint:
    spec, expected = fields.get("spec", str), fields.get("sha256", str)
    try:
        path = resolve(spec)
    except HeddleError as error:
        raise WeightsError(f"{fields.path}: its base {spec!r} is not to be had: {error}") from error
    found = model_sha256(path)
    if found != expected:
        raise WeightsError(
            f"{fields.path}: its base {spec!r} has other weights than this delta was made for "
            f"(sha256 {found[:12]}…, expected {expected[:12]}…)"
        )
    return open_dense(path)


def _adaptive_config(fields: Fields, dense: ModelConfig) -> ModelConfig:
    fabric, think = fields.find("fabric", dict), fields.find("think", dict)
    try:
        if fabric is not None:
            fabric["experts"] = tuple(Expert(*expert) for expert in fabric["experts"])
        return replace(
            dense,
            fabric=None if fabric is None else FabricConfig(**fabric),
            think=None if think is None else ThinkConfig(**think),
        )
    except (TypeError, KeyError, ConfigError) as error:
        raise WeightsError(f"{fields.path}: its configuration cannot be used: {error}") from error


def _read_tensors(path: Path, expected: list[str], config: ModelConfig) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read: {error}") from error
    for name in {*expected, *tensors}:
        if name not in tensors or name not in expected:
            problem = "missing" if name in expected else "of no use"
            raise WeightsError(f"{path}: tensor {name!r} is {problem}: fetch or make it again")
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in Transformer(config).state_dict().items()}
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name]:
            raise WeightsError(
                f"{path}: tensor {name!r} has shape {list(tensor.shape)}, the configuration asks "
                f"for {list(shapes[name])}"
            )
    return tensors
