"""Commands in documents: found in fenced and indented blocks, parsed without being run."""

import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from typer.main import get_command

from heddle.cli.main import app
from heddle.train.overrides import override
from heddle.train.run import load_recipe
from tests.serving import ROOT


def split_commands(code: str) -> list[list[str]]:
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


def check_command(words: list[str]) -> None:
    """Fail if a command's program, module, subcommand, option, recipe or setting does not exist."""
    program, arguments = Path(words[0]).name, words[1:]
    if program == "torchrun":
        program, arguments = "python", arguments[arguments.index("-m") :]
    if program == "python" and arguments[0] == "-m":
        _, module, *rest = arguments
        if module == "heddle":
            check_heddle(rest)
        elif module == "pytest":
            assert all((ROOT / word.partition("::")[0]).exists() for word in rest if "/" in word)
        else:
            assert find_spec(module), f"there is no module {module}"
    elif program == "heddle":
        check_heddle(arguments)
    elif program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
    else:
        assert shutil.which(program), f"{program} is not installed"


def check_heddle(arguments: list[str]) -> None:
    """Parse a `heddle` command as the command line would, and a recipe's settings."""
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        assert arguments, f"{command.name} needs a subcommand"
        name, *arguments = arguments
        assert name in command.commands, f"there is no heddle command {name!r}"
        command = command.commands[name]
    parsed = command.make_context(command.name, arguments)
    if command.name == "train":
        override(load_recipe(parsed.params["recipe"]), parsed.params["set"] or [])
