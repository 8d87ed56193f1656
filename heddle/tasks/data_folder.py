"""Questions out of the files of an evaluation data folder. Called by the files of sets."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heddle.errors import DataError
from heddle.tasks.evaluation import Asked, Question
from heddle.tasks.rows import read_rows

Row = dict[str, Any]
Ask = Callable[[Path | None], Iterator[Asked]]

_PACKED = ("", ".gz", ".xz", ".zst")


def find_file(data: Path | None, name: str) -> Path:
    """Return the file of a name, or its packed form, anywhere below a folder.

    Raises DataError unless there is exactly one.
    """
    assert data is not None, "EvalSet.questions asks for the folder"
    found = sorted(path for suffix in _PACKED for path in data.rglob(name + suffix))
    if not found:
        raise DataError(f"{data} holds no {name}: docs/eval.md says how to make it")
    if len(found) > 1:
        raise DataError(f"{data} holds {name} twice, {found[0]} and {found[1]}: keep one of them")
    return found[0]


def asked_from(
    file: str, question: Callable[[Row], Question], *, group: Callable[[Row], str] | None = None
) -> Ask:
    """Return what yields a question for each row of a file, under the row's `id`."""

    def ask(data: Path | None) -> Iterator[Asked]:
        for row, where in numbered_rows(data, file):
            with reading(where):
                asked = Asked(row["id"], question(row), group(row) if group else "")
            yield asked

    return ask


def numbered_rows(data: Path | None, file: str) -> Iterator[tuple[Row, str]]:
    """Yield the rows of a file, each with the words for where it stands."""
    path = find_file(data, file)
    for number, row in enumerate(read_rows(path), 1):
        yield row, f"{path}, row {number}"


@contextmanager
def reading(where: str) -> Generator[None]:
    """Raise DataError, naming the row, for a field that is missing or of a wrong kind."""
    try:
        yield
    except KeyError as error:
        raise DataError(f"{where}: {error} is missing; docs/eval.md has the format") from error
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise DataError(f"{where}: {error}; docs/eval.md has the format") from error
