import stat

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from heddle.cli.line_editor import LineEditor


def read(keys: str, folder) -> str:
    with create_pipe_input() as typed:
        typed.send_text(keys)
        editor = LineEditor(folder / "history", ["/help"], input=typed, output=DummyOutput())
        return editor.read()


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("hello\r", "hello"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("one\ntwo\r", "one\ntwo"),
        ("\x1b[200~one\ntwo\x1b[201~\r", "one\ntwo"),
    ],
    ids=["enter sends", "alt-enter", "ctrl-j", "a paste keeps its lines"],
)
def test_keys(keys, text, tmp_path):
    assert read(keys, tmp_path) == text


def test_control_keys(tmp_path):
    with pytest.raises(EOFError):
        read("\x04", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        read("half\x03", tmp_path)


def test_history_is_kept_and_private(tmp_path):
    read("first message\r", tmp_path)
    assert read("\x1b[A\r", tmp_path) == "first message"
    assert stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o600
