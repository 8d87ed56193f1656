"""An answer in the terminal while it streams: finished blocks stay, the last one is redrawn.

Only the Markdown block that is still being written is drawn again and again, so an answer of any
length scrolls as ordinary text does.
"""

import re
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Heading, Markdown
from rich.segment import Segment
from rich.text import Text

from heddle.client.model import Delta

FENCE = re.compile(r" {0,3}(```+|~~~+)")


def split_blocks(text: str) -> tuple[list[str], str]:
    """Split Markdown into blocks that later text cannot change, and the one that is still open.

    A block ends at a blank line outside a code fence, once the line after it is seen not to be
    indented: an indented line would go on with the list item before.
    """
    blocks, start, position = [], 0, 0
    fence, was_blank = "", False
    for line in text.splitlines(keepends=True):
        is_blank = not line.strip()
        if was_blank and not fence and not is_blank and not line[0].isspace():
            blocks.append(text[start:position])
            start = position
        mark = FENCE.match(line)
        if fence:
            closes = mark is not None and mark[1].startswith(fence) and line.strip() == mark[1]
            fence = "" if closes else fence
        elif mark:
            fence = mark[1]
        was_blank = is_blank
        position += len(line)
    return blocks, text[start:]


class _Heading(Heading):
    """A heading at the left margin; rich centres it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _Markdown(Markdown):
    elements = {**Markdown.elements, "heading_open": _Heading}


class _Block:
    """Markdown without rich's blank lines around it; the last `max_lines` only, if given."""

    def __init__(self, text: str, *, max_lines: int | None = None):
        self.text = text
        self.max_lines = max_lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        markdown = _Markdown(self.text, code_theme="ansi_dark")
        lines = console.render_lines(markdown, options.update(height=None), pad=False)
        shown = [
            index for index, line in enumerate(lines) if "".join(part.text for part in line).strip()
        ]
        if not shown:
            return
        lines = lines[shown[0] : shown[-1] + 1]
        for line in lines[-self.max_lines :] if self.max_lines else lines:
            yield from line
            yield Segment.line()


class AnswerView:
    """Shows one answer; a context manager, so that an interruption leaves the terminal in order."""

    def __init__(self, console: Console):
        self._console = console
        self._live = Live(
            console=console, transient=True, refresh_per_second=12, vertical_overflow="crop"
        )
        self._open = ""
        self._thought = ""
        self._has_printed = False

    def __enter__(self) -> "AnswerView":
        self._live.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update("")
        self._live.stop()
        self._end_thought()
        self._print(self._open)

    def add(self, delta: Delta) -> None:
        """Add a piece of the answer, or of the reasoning before it, which is dimmed."""
        if delta.reasoning:
            self._thought += delta.reasoning
            self._live.update(Text(self._thought[-2000:], style="dim italic"))
        if delta.text:
            self._end_thought()
            finished, self._open = split_blocks(self._open + delta.text)
            for block in finished:
                self._print(block)
            self._live.update(_Block(self._open, max_lines=max(1, self._console.height - 2)))

    def _end_thought(self) -> None:
        if self._thought:
            self._console.print(Text(self._thought.strip(), style="dim italic"))
            self._thought, self._has_printed = "", True

    def _print(self, text: str) -> None:
        if text.strip():
            if self._has_printed:
                self._console.print()
            self._console.print(_Block(text), end="")
            self._has_printed = True
