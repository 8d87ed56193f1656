"""What is kept of a run: a folder with its settings and, as they come, the answers' scores.

Written by `run`, read by `report`. A folder's name tells its model, its set and a hash of all that
decides the answers, so that a second start finds the answers of the first.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, TextIO

from heddle.errors import DataError, StorageError

SETTINGS, ANSWERS = "settings.json", "answers.jsonl"
_EMPTY = (None, "", 0, (), {})

Values = Mapping[str, tuple[float, float]]  # by metric: an amount and its weight


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run asked of whom.

    Attributes:
        set: the set's name.
        model: the model's name.
        think: how deep its tokens may think; None is the model's default.
        identity: what else decides its answers: the weights' file, precision, data, version.
    """

    set: str
    model: str
    think: int | str | None
    identity: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Return a short hash of everything."""
        text = json.dumps(asdict(self), sort_keys=True)
        return blake2b(text.encode(), digest_size=4).hexdigest()

    def folder(self, out: Path) -> Path:
        """Return where this run's answers are."""
        return out / _as_name(self.model) / f"{_as_name(self.set)}-{self.key}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One question's outcome: its values by metric, or the error that it met.

    `logprobs` are those of the texts that were scored, `text` is what was written. `num_tokens`,
    `num_loops` and `flops` are what the answer took, 0 if the model does not tell.
    """

    id: str
    group: str = ""
    values: Values = field(default_factory=dict)
    logprobs: Sequence[float] = ()
    text: str | None = None
    error: str | None = None
    num_tokens: int = 0
    num_loops: int = 0
    flops: float = 0.0


class Keeper:
    """The answers of one run, those of earlier starts included; a context manager.

    Questions that failed earlier are not among `answered`: they are asked again.
    """

    def __init__(self, settings: Settings, out: Path):
        """Open or make the folder. Raises StorageError when that cannot be done."""
        self._folder = settings.folder(out)
        self._settings = settings
        self._file: TextIO | None = None
        self.answered: dict[str, Record] = {}

    def __enter__(self) -> "Keeper":
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / SETTINGS
            if not path.exists():
                _write(path, json.dumps(asdict(self._settings), indent=1))
            answers = self._folder / ANSWERS
            if answers.exists():
                _drop_unfinished_line(answers)
                records = read_answers(self._folder).values()
                self.answered = {each.id: each for each in records if each.error is None}
            self._file = answers.open("a", encoding="utf-8")
        except OSError as error:
            raise _storage_error(self._folder, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def keep(self, record: Record) -> None:
        """Write an answer to disk."""
        assert self._file is not None
        fields = {name: value for name, value in asdict(record).items() if value not in _EMPTY}
        try:
            self._file.write(json.dumps(fields, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise _storage_error(self._folder, error) from error
        if record.error is None:
            self.answered[record.id] = record


def read_runs(out: Path) -> Iterator[tuple[Settings, dict[str, Record]]]:
    """Yield what is kept of every run in a folder, oldest first. Raises DataError."""
    paths = list(out.glob(f"*/*/{SETTINGS}"))
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
        try:
            settings = Settings(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path} does not describe a run: {error}") from error
        yield settings, read_answers(path.parent)


def read_answers(folder: Path) -> dict[str, Record]:
    """Return a run's answers by id; of a question asked twice, the last. Raises DataError."""
    path, found = folder / ANSWERS, {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], 1):
        try:
            record = Record(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not an answer ({error})") from error
        found[record.id] = record
    return found


def _drop_unfinished_line(path: Path) -> None:
    """Cut off what a killed process had written of its last answer."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _write(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)


def _as_name(text: str) -> str:
    """Return a text as a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "model"


def _storage_error(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path} cannot be written: {error.strerror or error}")
