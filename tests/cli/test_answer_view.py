import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from heddle.cli.answer_view import AnswerView, split_blocks
from heddle.client.model import Delta

MARKDOWN = """# Title

A paragraph.

1. one

   still one

2. two

```python
x = 1

y = 2
```

The end.
"""
PIECES = ["\n", "\n\n", "a", "   b", "```", "~~~", "- c", "```py\n", "1. d", " "]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_splitting_loses_nothing_and_settles(text):
    blocks, rest = split_blocks(text)
    assert "".join(blocks) + rest == text
    assert all(split_blocks(block) == ([], block) for block in blocks)


def blocks_of_stream(text: str) -> list[str]:
    """Return the blocks as they appear when the text arrives one character at a time."""
    found, rest = [], ""
    for character in text:
        blocks, rest = split_blocks(rest + character)
        found += [block.strip() for block in blocks]
    return [*found, rest.strip()]


def test_blocks_end_at_blank_lines_outside_fences_and_list_items():
    assert blocks_of_stream(MARKDOWN) == [
        "# Title",
        "A paragraph.",
        "1. one\n\n   still one",
        "2. two",
        "```python\nx = 1\n\ny = 2\n```",
        "The end.",
    ]


def shown(deltas: list[Delta], *, is_terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=60, height=12)
    with AnswerView(console) as view:
        for delta in deltas:
            view.add(delta)
    return console.file.getvalue()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_end_result_is_the_same_however_it_arrives(size):
    pieces = [Delta(text=MARKDOWN[i : i + size]) for i in range(0, len(MARKDOWN), size)]
    lines = [line.rstrip() for line in shown(pieces, is_terminal=False).splitlines()]
    whole = shown([Delta(text=MARKDOWN)], is_terminal=False)
    assert lines == [line.rstrip() for line in whole.splitlines()]
    assert lines[0] == "Title" and lines[-1] == "The end."
    assert "2 two" in "\n".join(lines)


def test_reasoning_comes_before_the_answer():
    text = shown(
        [Delta(reasoning="Let me "), Delta(reasoning="see."), Delta(text="Yes.")], is_terminal=False
    )
    assert [line.rstrip() for line in text.splitlines()] == ["Let me see.", "", "Yes."]


def test_an_interruption_keeps_what_was_said():
    console = Console(file=io.StringIO(), width=60)
    with pytest.raises(KeyboardInterrupt), AnswerView(console) as view:
        view.add(Delta(text="Half a sen"))
        raise KeyboardInterrupt
    assert "Half a sen" in console.file.getvalue()
