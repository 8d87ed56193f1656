import re

from typer.main import get_command

from heddle.cli.conversation import COMMANDS, SETTINGS
from heddle.cli.main import app
from tests.serving import ROOT

DOCS = [ROOT / "docs" / name for name in ("cli.md", "bench.md")]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in DOCS)


def leaves(command) -> list:
    """Return the commands that do something: those without subcommands."""
    if not hasattr(command, "commands"):
        return [command]
    return [leaf for each in command.commands.values() for leaf in leaves(each)]


def test_every_command_and_option_is_documented():
    for command in leaves(get_command(app)):
        assert command.name in TEXT
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert not option.startswith("--") or re.search(f"`{option}[` ]", TEXT), option


def test_every_command_of_the_chat_is_documented():
    assert all(name in TEXT for name in (*COMMANDS, *SETTINGS))
