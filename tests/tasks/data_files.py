"""Files of an evaluation data folder, written for a test."""

import json
from pathlib import Path
from typing import Any

from heddle.tasks.evaluation import Asked
from heddle.tasks.sets import SETS


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def asked(folder: Path, name: str, *rows: dict[str, Any]) -> list[Asked]:
    """Return the questions of a set whose first file holds the rows, with ids added."""
    numbered = [{"id": f"{name}-{number}", **row} for number, row in enumerate(rows)]
    write_rows(folder, SETS[name].files[0], numbered)
    return list(SETS[name].questions(folder))
