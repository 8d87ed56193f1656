"""Tensors in a folder of safetensors: one file, or several of bounded size with an index.

Read by `folder` and `native`, written by `export` and `native`. File names and the index are those
of Hugging Face folders: https://huggingface.co/docs/safetensors and
https://huggingface.co/docs/transformers/big_models.
"""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from heddle.errors import WeightsError
from heddle.weights.fields import Fields, read_json

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class SafetensorFiles:
    """The tensors of a folder: which file holds which, checked headers, and reading one."""

    def __init__(self, folder: Path, *, types: Collection[str] = tuple(DTYPES)):
        """Read every header. Raises WeightsError, naming the file, for what cannot be read.

        `types` are those that tensors may have, as safetensors names them.
        """
        self._open: dict[Path, Any] = {}
        self.files = self._locate(folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, file in self.files.items():
            self.shapes[name] = tuple(self._slice(name).get_shape())
            if self.dtype(name) not in types:
                raise WeightsError(
                    f"{file}: tensor {name!r} is of type {self.dtype(name)}; Heddle "
                    f"reads {', '.join(DTYPES)}"
                )

    def read(self, name: str) -> Tensor:
        """Return a tensor, mapped from its file."""
        return self._file(self.files[name]).get_tensor(name)

    def dtype(self, name: str) -> str:
        """Return a tensor's type as safetensors names it; `DTYPES` has PyTorch's names."""
        return self._slice(name).get_dtype()

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in set(self.files.values()))

    def _slice(self, name: str) -> Any:
        file = self.files[name]
        try:
            return self._file(file).get_slice(name)
        except SafetensorError as error:
            raise WeightsError(
                f"{file}: tensor {name!r} is missing, though {INDEX} names this file for it"
            ) from error

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            try:
                self._open[path] = safe_open(path, framework="pt")
            except (SafetensorError, FileNotFoundError) as error:
                raise WeightsError(
                    f"{path}: missing, cut short or corrupt ({error}); fetch it again"
                ) from error
        return self._open[path]

    def _locate(self, folder: Path) -> dict[str, Path]:
        if (folder / INDEX).exists():
            files = Fields(folder / INDEX, read_json(folder / INDEX)).get("weight_map", dict)
            for name, file in files.items():
                if not isinstance(file, str) or Path(file).name != file:
                    raise WeightsError(
                        f"{folder / INDEX}: tensor {name!r} is said to lie outside the folder"
                    )
            return {name: folder / file for name, file in files.items()}
        single = folder / SINGLE
        if not single.exists():
            raise WeightsError(
                f"{folder}: no {SINGLE} and no {INDEX}: weights missing or in another form"
            )
        return dict.fromkeys(self._file(single).keys(), single)


def write_safetensors(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], *, max_file_bytes: int
) -> None:
    """Write tensors as they come, so that one file's worth is in memory at a time.

    A tensor larger than `max_file_bytes` gets a file of its own.
    """
    files: dict[str, list[str]] = {}
    pending: dict[str, Tensor] = {}

    def write() -> None:
        name = f"model-{len(files) + 1:05}.safetensors"
        save_file(pending, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o644)  # it is the writer's alone otherwise, as no other file is
        files[name] = list(pending)
        pending.clear()

    for name, tensor in tensors:
        size_bytes = sum(other.nbytes for other in pending.values())
        if pending and size_bytes + tensor.nbytes > max_file_bytes:
            write()
        pending[name] = tensor.contiguous()
    write()
    if len(files) == 1:
        (folder / next(iter(files))).rename(folder / SINGLE)
        return
    total = sum((folder / name).stat().st_size for name in files)
    weight_map = {tensor: name for name, tensors in files.items() for tensor in tensors}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
