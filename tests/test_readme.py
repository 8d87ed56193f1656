"""The README keeps its word: its commands exist, and those marked to be run do what they say.

`<!-- run -->` before a fenced block has it run against a server of the default model, standing in
for the one at port 8000; `<!-- run, prints TEXT -->` wants TEXT in what it prints, too.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.commands import check_command, check_heddle, split_commands
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


@pytest.mark.parametrize(
    "words",
    [words for block in BLOCKS if block.language == "sh" for words in split_commands(block.code)],
    ids=shlex.join,
)
def test_commands_exist(words):
    check_command(words)


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
