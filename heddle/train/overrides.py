"""`--set a.b=v`: change fields of nested frozen dataclasses by name, typed by their annotations.

Called by `heddle train`.
"""

import dataclasses
import difflib
import json
import math
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from heddle.errors import ConfigError

Config = TypeVar("Config")


def override(config: Config, settings: Sequence[str]) -> Config:
    """Return `config` with each `a.b=v` applied in turn.

    Raises ConfigError for an unknown name, with the nearest that exists, and for a value that the
    field cannot take. Tuples are written as JSON lists, None as `none`.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set needs NAME=VALUE, not {setting!r}")
        config = _changed(config, path.strip().split("."), text.strip(), path.strip())
    return config


def _changed(config: Any, names: list[str], text: str, path: str) -> Any:
    """Return `config` with the field that `names` lead to read from `text`."""
    name, *rest = names
    known = [field.name for field in dataclasses.fields(config)]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        where = path.rpartition(name)[0]
        raise ConfigError(f"there is no setting {path!r}; the nearest is '{where}{near[0]}'")
    value = getattr(config, name)
    if rest:
        if not dataclasses.is_dataclass(value):
            raise ConfigError(f"setting {path!r} does not exist: {name} is {value!r}")
        return dataclasses.replace(config, **{name: _changed(value, rest, text, path)})
    if dataclasses.is_dataclass(value):
        inner = ", ".join(field.name for field in dataclasses.fields(value))
        raise ConfigError(f"setting {path!r} has parts, set one of them: {inner}")
    parsed = _parsed(text, get_type_hints(type(config))[name], path)
    return dataclasses.replace(config, **{name: parsed})


def _parsed(text: str, kind: Any, path: str) -> Any:
    """Read `text` as a value of type `kind`."""
    origin, members = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if types.NoneType in members and text.lower() == "none":
            return None
        return _parsed(text, next(m for m in members if m is not types.NoneType), path)
    if origin is Literal:
        if text in members:
            return text
        raise _refusal(path, "one of " + ", ".join(map(str, members)), text)
    if origin is tuple:
        return _parsed_tuple(text, members[0], path)
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise _refusal(path, "true or false", text)
    if kind in (int, float, str, Path):
        try:
            value: Any = kind(text)
        except ValueError:
            words = {int: "a whole number", float: "a number"}
            raise _refusal(path, words[kind], text) from None
        if kind is float and not math.isfinite(value):
            raise _refusal(path, "a finite number", text)
        return value
    raise ConfigError(f"setting {path!r} cannot be changed from the command line, only in a recipe")


def _parsed_tuple(text: str, member: Any, path: str) -> tuple[Any, ...]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, list):
        raise _refusal(path, "a JSON list", text)
    return tuple(
        _parsed(value if isinstance(value, str) else json.dumps(value), member, path)
        for value in values
    )


def _refusal(path: str, wanted: str, text: str) -> ConfigError:
    return ConfigError(f"setting {path!r} must be {wanted}, not {text!r}")
