"""A network's configuration as JSON and back. Used by `native` and by the trainer's `publish`.

The dataclasses of `model.config` say what may be there and of what type; a field that has a default
may be missing, so that a folder outlives new settings.
"""

import math
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from heddle.errors import ConfigError, WeightsError
from heddle.model.config import ModelConfig
from heddle.weights.fields import MAX_COUNT


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """Return a configuration as JSON values."""
    return asdict(config)


def config_from_json(path: Path, value: Any) -> ModelConfig:
    """Read what `config_to_json` gave; a WeightsError names `path` and the field at fault."""
    try:
        return _read(ModelConfig, value, "config")
    except (ConfigError, WeightsError) as error:
        raise WeightsError(f"{path}: its configuration cannot be used: {error}") from error


def _read(kind: Any, value: Any, name: str) -> Any:
    """Return `value` as the type `kind`."""
    origin, members = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None:
            return None
        return _read(next(member for member in members if member is not NoneType), value, name)
    if _is_plain(kind, origin, members, value):
        return float(value) if kind is float else value
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        return _read_dataclass(kind, value, name)
    if isinstance(value, list | tuple):
        if origin is tuple:
            return tuple(_read(members[0], item, f"{name}[{i}]") for i, item in enumerate(value))
        columns = get_type_hints(kind) if hasattr(kind, "_fields") else {}
        if len(columns) == len(value) > 0:
            pairs = zip(columns.items(), value, strict=True)
            return kind(*(_read(column, item, f"{name}.{key}") for (key, column), item in pairs))
    raise WeightsError(f"field {name!r} is {str(value)[:60]!r}, not a usable {_word(kind)}")


def _is_plain(kind: Any, origin: Any, members: tuple[Any, ...], value: Any) -> bool:
    if origin is Literal:
        return isinstance(value, str) and value in members
    if type(value) is int and kind in (int, float):
        return abs(value) <= MAX_COUNT
    if kind is float:
        return type(value) is float and math.isfinite(value)
    return kind in (bool, str) and type(value) is kind


def _read_dataclass(kind: type, value: dict[str, Any], name: str) -> Any:
    known = {field.name: field for field in fields(kind)}
    for key in value:
        if key not in known:
            raise WeightsError(f"field '{name}.{key}' is unknown: it is of another release")
    for key, field in known.items():
        if key not in value and field.default is MISSING:
            raise WeightsError(f"field '{name}.{key}' is missing")
    hints = get_type_hints(kind)
    return kind(**{key: _read(hints[key], item, f"{name}.{key}") for key, item in value.items()})


def _word(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))
