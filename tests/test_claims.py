"""docs/claims.md names every part, and each command that is to show one exists."""

import re
import shlex

import pytest

from tests.commands import check_command
from tests.serving import ROOT

CELL = r"\s*(.*?)\s*"
ROW = re.compile(rf"^\|{CELL}\|{CELL}\|{CELL}\|{CELL}\|$", re.MULTILINE)
CLAIMS = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
ROWS = [row for row in ROW.findall(CLAIMS) if row[0] != "Part" and not row[0].startswith("---")]
STATES = {"works", "in part", "not shown", "not built"}


def test_every_part_has_a_row():
    named = [row[0].split()[0] for row in ROWS]
    assert [name for name in named if re.fullmatch("F[0-9]+", name)] == [
        f"F{number}" for number in range(1, 21)
    ]


@pytest.mark.parametrize("part, state, command, figure", ROWS, ids=[row[0] for row in ROWS])
def test_what_is_claimed_has_a_command(part: str, state: str, command: str, figure: str):
    assert state in STATES
    if state == "not built":
        assert not command and not figure
        return
    assert figure and command.startswith("`") and command.endswith("`")
    check_command(shlex.split(command.strip("`")))
