import subprocess
import sys

import pytest
from typer.testing import CliRunner

from heddle.cli.main import app
from heddle.errors import ConfigError

runner = CliRunner()


def test_help_lists_the_commands():
    shown = runner.invoke(app, ["--help"])
    assert shown.exit_code == 0
    for name in ("serve", "chat", "run", "pull", "models", "keys", "bench", "version"):
        assert f" {name} " in shown.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['heddle', '--help']\n"
        "from heddle.cli.main import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'fastapi', 'httpx', 'prompt_toolkit'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_heddle_error_is_one_sentence_and_status_1():
    failed = runner.invoke(app, ["run", "no-such-model", "hello"])
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: no model 'no-such-model'")
    assert len(failed.stderr.strip().splitlines()) == 1


def test_debug_lets_the_error_through():
    failed = runner.invoke(app, ["--debug", "run", "no-such-model", "hello"])
    assert isinstance(failed.exception, ConfigError)


def test_an_empty_prompt_is_refused():
    failed = runner.invoke(app, ["run", "no-such-model", "-"], input=" \n")
    assert (failed.exit_code, failed.stderr) == (1, "Error: the prompt is empty\n")


@pytest.mark.parametrize("arguments", [["bench", "decode", "--peer", "nobody"], ["nonsense"]])
def test_misuse_is_status_2(arguments):
    assert runner.invoke(app, arguments).exit_code == 2
