"""Commands of docs/training-queue.md and docs/claims.md exist, settings and test files included."""

import re
import shlex

import pytest

from heddle.errors import ConfigError
from tests.commands import check_command, split_commands
from tests.serving import ROOT

INDENTED = re.compile(r"(?:^    .+\n)+", re.MULTILINE)
LOOP = re.compile(r"^\s*(for .+; do|done)$")
QUEUE = (ROOT / "docs" / "training-queue.md").read_text(encoding="utf-8")


def queue_commands() -> list[list[str]]:
    blocks = ("\n".join(block.splitlines()) for block in INDENTED.findall(QUEUE))
    lines = (
        "\n".join(line for line in block.splitlines() if not LOOP.match(line)) for block in blocks
    )
    text = "\n".join(lines).replace("$loops", "2")
    return split_commands(text)


@pytest.mark.parametrize("words", queue_commands(), ids=shlex.join)
def test_the_queue_s_commands_exist(words, tmp_path):
    if words[:2] == ["heddle", "prepare"]:  # it wants its files to be there
        for place, word in enumerate(words):
            if word.endswith(".xz"):
                words[place] = str(tmp_path / word)
                (tmp_path / word).touch()
    check_command(words)


@pytest.mark.parametrize(
    "command",
    [
        "python -m heddle train gpu_speed --set objective.nonsense=1",
        "python -m heddle train nonsense",
        "python -m recipes.experiments.nonsense",
        "python -m pytest tests/nonsense.py",
    ],
)
def test_the_check_can_fail(command):
    with pytest.raises((AssertionError, ConfigError)):
        check_command(shlex.split(command))
