"""The README keeps its word: its commands exist, and those marked to be run do what they say.

`<!-- run -->` before a fenced block has it run against a server of the default model, standing in
for the one at port 8000; `<!-- run, prints TEXT -->` wants TEXT in what it prints, too.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.main import get_command

from heddle.cli.main import app
from tests.serving import ROOT, serving

BLOCK = re.compile(
    r"(?P<run><!-- run(?:, prints (?P<prints>.+?))? -->\n)?"
    r"^```(?P<language>sh|python)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
ADDRESS = "http://127.0.0.1:8000"


class Block(NamedTuple):
    """A fenced block of the README."""

    language: str
    code: str
    is_run: bool
    prints: str


BLOCKS = [
    Block(found["language"], found["code"], bool(found["run"]), found["prints"] or "")
    for found in BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8"))
]


def commands(code: str) -> list[list[str]]:
    """Split a shell block into commands of words; a quoted string may hold line ends."""
    found, pending = [], ""
    for line in code.splitlines():
        pending += line + "\n"
        if pending.endswith("\\\n"):
            pending = pending.removesuffix("\\\n") + " "
            continue
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation goes on in the next line
            continue
        found += [words] if words else []
        pending = ""
    assert not pending, f"the block ends inside a quotation: {pending}"
    return found


def check_heddle(arguments: list[str]) -> None:
    """Parse a `heddle` command as the command line would, without running it."""
    command = get_command(app)
    while hasattr(command, "commands"):
        assert arguments, f"{command.name} needs a subcommand"
        name, *arguments = arguments
        assert name in command.commands, f"there is no heddle command {name!r}"
        command = command.commands[name]
    command.make_context(command.name, arguments)


@pytest.mark.parametrize(
    "words",
    [words for block in BLOCKS if block.language == "sh" for words in commands(block.code)],
    ids=shlex.join,
)
def test_commands_exist(words):
    program = Path(words[0]).name
    if program == "heddle":
        check_heddle(words[1:])
    elif program == "make":
        subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    else:
        assert shutil.which(program), f"{program} is not installed"


@pytest.mark.parametrize("code", [block.code for block in BLOCKS if block.language == "python"])
def test_python_compiles(code):
    compile(code, "README.md", "exec")


@pytest.fixture(scope="module")
def default_url(default_gguf, tmp_path_factory):
    with serving(str(default_gguf), data=tmp_path_factory.mktemp("data")) as url:
        yield url


@pytest.mark.model
@pytest.mark.parametrize("block", [block for block in BLOCKS if block.is_run])
def test_marked_blocks_run(block, default_url):
    code = block.code.replace(ADDRESS, default_url)
    program = (
        ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*program, code], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert '"error"' not in done.stdout
    assert block.prints in done.stdout


def test_the_check_can_fail():
    with pytest.raises(AssertionError, match="no heddle command 'nonsense'"):
        check_heddle(["nonsense"])
    with pytest.raises(Exception, match="No such option"):
        check_heddle(["serve", "--nonsense"])
