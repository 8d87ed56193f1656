"""Typed access to what a checkpoint says about itself: GGUF metadata or a JSON object."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from heddle.errors import WeightsError

T = TypeVar("T")

MAX_COUNT = 1 << 27  # of heads, channels or tokens: the largest networks have a thousandth of it
MAX_TEXT_BYTES = 1 << 28


class Fields:
    """Named values of a file; a WeightsError names file and field of what is not usable."""

    def __init__(self, path: Path, values: Mapping[str, Any]):
        self.path = path
        self.values = values

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """Return a field, which must be there unless it has a default."""
        value = self.find(key, kind)
        if value is None:
            value = default
        if value is None:
            raise WeightsError(
                f"{self.path}: field {key!r} is missing: the file is incomplete; fetch it again"
            )
        return value

    def find(self, key: str, kind: type[T]) -> T | None:
        """Return a field or None. A whole number serves as float; numbers must be finite."""
        value: Any = self.values.get(key)
        if kind is float and type(value) is int and abs(value) < 1 << 64:
            value = float(value)
        if value is None or (
            type(value) is kind and not (isinstance(value, float) and not math.isfinite(value))
        ):
            return value
        raise WeightsError(
            f"{self.path}: field {key!r} is {str(value)[:60]!r}, not a usable {kind.__name__}"
        )

    def count(self, key: str, default: int | None = None) -> int:
        """Return a whole number from 1 to MAX_COUNT."""
        value = self.get(key, int, default)
        if not 0 < value <= MAX_COUNT:
            raise WeightsError(f"{self.path}: field {key!r} is {value}, not from 1 to {MAX_COUNT}")
        return value

    def refuse(self, key: str, unless: object) -> None:
        """Raise WeightsError if a field asks for anything but `unless`, which Heddle does."""
        value = self.values.get(key)
        if value is not None and value != unless:
            raise WeightsError(
                f"{self.path}: field {key!r} is {str(value)[:60]!r}, which is not supported"
            )


def read_text(path: Path) -> str:
    """Return what a text file holds."""
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise WeightsError(f"{path}: larger than {MAX_TEXT_BYTES} bytes; fetch it again")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: file is missing: not a complete model folder") from error
    except UnicodeDecodeError as error:
        raise WeightsError(f"{path}: not UTF-8 text: it is corrupt; fetch it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds."""
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not valid JSON: {str(error)[:100]}; fetch it again") from error
    if not isinstance(document, dict):
        raise WeightsError(f"{path}: holds no JSON object; fetch it again")
    return document
