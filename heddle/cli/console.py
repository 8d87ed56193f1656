"""Where commands write: results to standard output, everything else to standard error.

A result is plain text or JSON that another program may read; notes and progress are for the person.
"""

import json

from rich.console import Console
from rich.text import Text

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def note(text: str, *, style: str = "") -> None:
    """Tell the person something; never part of a command's result."""
    err.print(Text(text, style=style), soft_wrap=True)


def print_json(value: object) -> None:
    """Write one JSON value on a line of its own."""
    print(json.dumps(value, ensure_ascii=False), flush=True)
