from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from heddle.errors import ConfigError
from heddle.train.overrides import override


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    kind: Literal["soft", "hard"] = "soft"
    limit: int | None = None

    def __post_init__(self):
        if self.rate < 0:
            raise ConfigError("rate must not be negative")


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = Inner()
    spare: Inner | None = None
    steps: int = 1
    fast: bool = False
    folder: Path = Path("runs")
    name: str = "a"
    widths: tuple[int, ...] = (1, 2)
    words: tuple[str, ...] = ()
    table: dict | None = None


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("steps=7", Outer(steps=7)),
        ("inner.rate=3e-4", Outer(inner=Inner(rate=3e-4))),
        ("inner.rate=1", Outer(inner=Inner(rate=1.0))),
        ("inner.kind=hard", Outer(inner=Inner(kind="hard"))),
        ("inner.limit=5", Outer(inner=Inner(limit=5))),
        ("fast=true", Outer(fast=True)),
        ("folder=/tmp/x", Outer(folder=Path("/tmp/x"))),
        ("name=b=c", Outer(name="b=c")),
        ("widths=[4, 5, 6]", Outer(widths=(4, 5, 6))),
        ('words=["x", "y"]', Outer(words=("x", "y"))),
    ],
)
def test_values_are_read_as_their_fields_type(setting, expected):
    changed = override(Outer(), [setting])
    assert changed == expected
    assert type(changed.inner.rate) is float


def test_later_settings_win_and_none_clears():
    assert override(Outer(), ["inner.limit=5", "steps=2", "inner.limit=none"]) == Outer(steps=2)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("stepz=1", "nearest is 'steps'"),
        ("inner.rat=1", "nearest is 'inner.rate'"),
        ("steps=many", "'steps' must be a whole number, not 'many'"),
        ("inner.rate=fast", "must be a number"),
        ("inner.rate=nan", "a finite number"),
        ("inner.kind=loud", "one of soft, hard"),
        ("fast=1", "true or false"),
        ("widths=4", "a JSON list"),
        ('widths=["x"]', "a whole number"),
        ("inner=1", "set one of them: rate, kind, limit"),
        ("steps.x=1", "steps is 1"),
        ("spare.rate=1", "spare is None"),
        ("spare=1", "only in a recipe"),
        ("table=1", "only in a recipe"),
        ("steps", "NAME=VALUE"),
        ("inner.rate=-1", "must not be negative"),
    ],
)
def test_what_cannot_be_set_is_told(setting, words):
    with pytest.raises(ConfigError, match=words):
        override(Outer(), [setting])
