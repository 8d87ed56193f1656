"""The line a person types into in `heddle chat`: history, several lines, completion of commands."""

import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output

PLACEHOLDER = HTML("<ansigray>Message, or /help</ansigray>")


class LineEditor:
    """Reads messages from a terminal: Enter sends, Alt-Enter or Ctrl-J starts a new line."""

    def __init__(
        self,
        history: Path,
        commands: Sequence[str],
        *,
        input: Input | None = None,
        output: Output | None = None,
    ):
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)
        self._session: PromptSession[str] = PromptSession(
            history=FileHistory(str(history)),
            completer=WordCompleter(list(commands), sentence=True),
            complete_while_typing=False,
            key_bindings=_bindings(),
            multiline=True,
            prompt_continuation="  ",
            input=input,
            output=output,
        )

    def read(self) -> str:
        """Return what was typed; raises EOFError at Ctrl-D and KeyboardInterrupt at Ctrl-C."""
        return self._session.prompt(HTML("<b><ansicyan>› </ansicyan></b>"), placeholder=PLACEHOLDER)


@contextmanager
def keys_unseen() -> Iterator[None]:
    """Keep what is typed, Ctrl-C above all, from being echoed into an answer being drawn."""
    before = termios.tcgetattr(sys.stdin)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO  # the fourth entry holds the local modes, termios(3)
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    @bindings.add("c-j")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
