"""Heddle's own folders: a whole model, or a delta, which is what it adds to a dense model.

FOLDER/
    model.json               version, name, configuration, and the base of a delta
    model.safetensors        the tensors by parameter name; several files and an index when large
    tokenizer.json, tokenizer_config.json, generation_config.json, chat_template.jinja
                             of a whole model; a delta without them speaks as its base does

How tensors lie in the files, `pieces` tells. The base is never copied: one download serves every
delta over it. Written by `delta.upcycle`, the trainer, `quantise` and `heddle export`, read by
`checkpoint.open_checkpoint`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heddle.errors import HeddleError, WeightsError
from heddle.model.config import ModelConfig
from heddle.model.transformer import Transformer
from heddle.weights.atomic import new_folder
from heddle.weights.configuration import config_from_json, config_to_json
from heddle.weights.contents import (
    BaseReference,
    Checkpoint,
    LazyParts,
    Part,
    check_token_ids,
    count_words,
)
from heddle.weights.dense import open_dense
from heddle.weights.fields import Fields, read_json
from heddle.weights.folder_tokenizer import TOKENIZER, read_speech, write_speech
from heddle.weights.hub import resolve
from heddle.weights.names import slots
from heddle.weights.pieces import Piece, by_tensor, cut, numbers_in, open_pieces, read_piece
from heddle.weights.sharded import write_safetensors

VERSION = 1
DESCRIPTION = "model.json"
MAX_FILE_BYTES = 16 << 20


class _Over(Mapping[str, list[Part]]):
    """A delta's own tensors over its base's."""

    def __init__(self, own: Mapping[str, list[Part]], base: Mapping[str, list[Part]]):
        self._own, self._base = own, base
        self._names = dict.fromkeys([*own, *base])

    def __getitem__(self, name: str) -> list[Part]:
        return self._own[name] if name in self._own else self._base[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return every tensor that a network of this shape keeps, by name."""
    with torch.device("meta"):
        state = Transformer(config).state_dict()
    if config.tied_embeddings:
        del state["head.weight"]
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def write_native(
    checkpoint: Checkpoint,
    target: Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    max_file_bytes: int = MAX_FILE_BYTES,
    overwrite: bool = False,
) -> None:
    """Write `target`, which appears only when it is complete; of a delta its own tensors alone.

    `dtype` None keeps every tensor as the checkpoint has it, blocks too. Raises StorageError when
    it cannot be written, or exists unless `overwrite`.
    """
    base = checkpoint.base
    document = {
        "version": VERSION,
        "name": checkpoint.name,
        "base": {"spec": base.spec, "sha256": base.sha256} if base else None,
        "config": config_to_json(checkpoint.config),
    }
    with new_folder(target, overwrite=overwrite) as folder:
        (folder / DESCRIPTION).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        if base is None or not base.speaks:
            write_speech(folder, checkpoint)
        pieces = _pieces(checkpoint, dtype, max_file_bytes)
        write_safetensors(folder, pieces, max_file_bytes=max_file_bytes)


def read_native(path: Path) -> Checkpoint:
    """Open a folder; a WeightsError says what of it, or of its base, is missing or another."""
    fields = Fields(path / DESCRIPTION, read_json(path / DESCRIPTION))
    if fields.get("version", int) != VERSION:
        raise WeightsError(
            f"{fields.path}: version {fields.get('version', int)} is of another release of Heddle; "
            f"this one reads version {VERSION}"
        )
    config = config_from_json(fields.path, fields.get("config", dict))
    reference = fields.find("base", dict)
    base = None if reference is None else _open_base(Fields(fields.path, reference), config)
    files = open_pieces(path)
    pieces = by_tensor(path, files)
    own = LazyParts(_sources(path, pieces, config, base), lambda key: read_piece(files, key))
    num_own, dtype = numbers_in(files, chain(*pieces.values()))
    common: dict[str, Any] = {
        "name": fields.get("name", str),
        "path": path,
        "config": config,
        "size_bytes": files.size_bytes + (base.size_bytes if base else 0),
    }
    speaks = base is None or (path / TOKENIZER).exists()
    if speaks:
        speech = read_speech(path, Fields(fields.path, {}))
        check_token_ids(path, (speech.bos_id, *speech.eos_ids), config.vocab_size)
        common |= speech._asdict()
    if base is None:
        described = f"Heddle {dtype}, {count_words(num_own)}"
        return Checkpoint(**common, tensors=own, description=described)
    assert base.base is not None, "an opened base says which it is"
    left = base.base.supplies - set(own)
    return replace(
        base,
        **common,
        tensors=_Over(own, base.tensors),
        description=f"{count_words(num_own)} over {base.name} ({base.description})",
        base=replace(base.base, supplies=left, speaks=not speaks),
    )


def with_base(checkpoint: Checkpoint, spec: str) -> Checkpoint:
    """Return a model as the base of a delta, to be found again at `spec`."""
    is_local = Path(spec).expanduser().exists()
    reference = BaseReference(
        spec=str(checkpoint.path.resolve()) if is_local else spec,
        sha256=model_sha256(checkpoint.path),
        supplies=frozenset(checkpoint.tensors),
    )
    return replace(checkpoint, base=reference)


def model_sha256(path: Path) -> str:
    """Return the hash of a model's weights: of a .gguf file, or of a folder's files in order."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    digest = hashlib.sha256()
    for name in files:
        with name.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _open_base(fields: Fields, config: ModelConfig) -> Checkpoint:
    spec, expected = fields.get("spec", str), fields.get("sha256", str)
    try:
        path = resolve(spec)
    except HeddleError as error:
        raise WeightsError(f"{fields.path}: its base {spec!r} is not to be had: {error}") from error
    is_ours = (path / DESCRIPTION).is_file()
    base = with_base(read_native(path) if is_ours else open_dense(path), spec)
    assert base.base is not None, "just given"
    if base.base.sha256 != expected:
        raise WeightsError(
            f"{fields.path}: its base {spec!r} has other weights than this delta was made for "
            f"(sha256 {base.base.sha256[:12]}…, expected {expected[:12]}…)"
        )
    is_as_deep = config.num_layers == base.config.num_layers
    if not is_as_deep or slots(config) != slots(base.config):
        raise WeightsError(
            f"{fields.path}: its configuration is not of the shape of its base {spec!r}: the file "
            "contradicts itself; fetch or make it again"
        )
    return base


def _pieces(
    checkpoint: Checkpoint, dtype: torch.dtype | None, max_bytes: int
) -> Iterator[tuple[str, Tensor]]:
    """Yield what is stored of a folder's own tensors."""
    supplied = checkpoint.base.supplies if checkpoint.base else frozenset()
    for name in checkpoint.tensors:
        if name not in supplied:
            parts = checkpoint.tensors[name] if dtype is None else [checkpoint.load(name, dtype)]
            yield from cut(name, parts, max_bytes)


def _sources(
    path: Path,
    found: Mapping[str, list[Piece]],
    config: ModelConfig,
    base: Checkpoint | None,
) -> dict[str, tuple[str, ...]]:
    """Return the keys of each tensor of the folder.

    Raises WeightsError unless they and the base's are all that the network has, of its shapes.
    """
    num_tensors = len(found) + (len(base.tensors) if base else 0)
    if config.num_layers > num_tensors:
        raise WeightsError(
            f"{path}: claims {config.num_layers} layers, with {num_tensors} tensors in all"
        )
    expected = tensor_shapes(config)
    supplied = base.tensors if base else {}
    for name in [*expected, *found]:
        if name not in expected or (name not in found and name not in supplied):
            problem = "is missing" if name in expected else "has no place in this network"
            raise WeightsError(f"{path}: tensor {name!r} {problem}: fetch or make it again")
    for name, pieces in found.items():
        shapes = [piece.shape for piece in pieces]
        shape = shapes[0] if len(shapes) == 1 else (sum(s[0] for s in shapes), *shapes[0][1:])
        if shape != expected[name] or any(s[1:] != shape[1:] for s in shapes):
            raise WeightsError(
                f"{path}: tensor {name!r} has shape {list(shape)}, the configuration asks for "
                f"{list(expected[name])}: fetch or make it again"
            )
    return {name: tuple(piece.key for piece in pieces) for name, pieces in found.items()}
