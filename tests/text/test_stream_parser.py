import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heddle.text.chat import ChatFormat
from heddle.text.stream_parser import (
    Content,
    Reasoning,
    StreamParser,
    ToolCallArguments,
    ToolCallStart,
)

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
ADD = [("add", '{"a": 1}')]


def read(pieces: list[str], **settings) -> tuple[str, str, list[tuple[str, str]]]:
    """Return content, reasoning and calls of an answer that comes in pieces."""
    parser = StreamParser(**{"tools": True, "thinking": True, **settings})
    content, reasoning, calls = "", "", []
    for part in [*(part for piece in pieces for part in parser.push(piece)), *parser.finish()]:
        match part:
            case Content(text):
                content += text
            case Reasoning(text):
                reasoning += text
            case ToolCallStart(index, _, name):
                assert index == len(calls)
                calls.append((name, ""))
            case ToolCallArguments(index, text):
                name, arguments = calls[index]
                calls[index] = (name, arguments + text)
    return content, reasoning, calls


def cut(text: str, places: list[int]) -> list[str]:
    """Return `text` in pieces; `places` are taken modulo its length."""
    bounds = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(bounds)]


words = st.lists(
    st.sampled_from(
        ["a", " ", "\n", "<", "</", "<think", "</tool_call>", "<tool_", "{", '"', "é", "}"]
    )
).map("".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | words | st.just(CALL),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
function_names = st.text("abz_-09", min_size=1)
assistant_messages = st.fixed_dictionaries(
    {
        "content": words.map(str.strip),
        "reasoning": words.map(str.strip),
        "calls": st.lists(
            st.tuples(
                function_names, st.dictionaries(words, json_values, max_size=3).map(json.dumps)
            ),
            max_size=3,
        ),
    }
)
# Writes an assistant's turn alone, as the model itself would.
TURN = """\
{%- set message = messages[-1] %}
{%- if message.reasoning_content %}
    {{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}
{%- endif %}
{{- message.content }}"""


@given(assistant_messages, st.lists(st.integers(0, 10_000), max_size=30))
def test_parsing_inverts_rendering(tokenizer, message, places):
    chat = ChatFormat(TURN, tokenizer, bos_id=None, eos_ids=())
    calls = [
        {"type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments in message["calls"]
    ]
    rendered = chat.render(
        [
            {
                "role": "assistant",
                "content": message["content"],
                "reasoning": message["reasoning"],
                "tool_calls": calls,
            }
        ]
    )
    pieces = cut(tokenizer.decode(rendered), places)
    assert read(pieces) == (message["content"], message["reasoning"], message["calls"])


hostile_answers = st.lists(
    st.sampled_from(
        [
            "<tool_call>", "</tool_call>", "<think>", "</think>", CALL, '{"name": "f", ', "{", "}",
            '"arguments": {"x": ', '"arguments": ', '"', "\\", " ", "\n", "text", "<tool", "[1]",
        ]
    )
).map("".join)  # fmt: skip


@given(hostile_answers, st.lists(st.integers(0, 10_000), max_size=30))
def test_the_pieces_make_no_difference(text, places):
    assert read(cut(text, places)) == read([text])


@given(hostile_answers)
def test_no_word_is_ever_lost(text):
    content, reasoning, calls = read([text])
    everything = content + reasoning + "".join(name + arguments for name, arguments in calls)
    for word in ("text", "\\", "[1]"):
        assert everything.count(word) == text.count(word)


@given(st.text("<think>/a ", max_size=20))
def test_without_tools_and_thinking_text_passes_untouched(text):
    parser = StreamParser(tools=False, thinking=False)
    assert "".join(part.text for piece in text for part in parser.push(piece)) == text
    assert parser.finish() == []


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (CALL, "", ADD),
        (f"Adding.\n{CALL}\n{CALL}", "Adding.", ADD * 2),
        (f"{CALL}\nDone.", "Done.", ADD),
        (CALL.removesuffix("</tool_call>"), "", ADD),
        (CALL.replace("}}", "}}}"), "", ADD),
        (CALL.replace("}}", "}"), "", ADD),
        (CALL.replace("\n", ""), "", ADD),
        (CALL.replace("\n</tool_call>", "") + "\n" + CALL, "", ADD * 2),
        ('<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>', "", ADD),
        ('<tool_call>{"name": "add", "parameters": {"a": 1}}</tool_call>', "", ADD),
        ('<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', "", ADD),
        ('<tool_call>{"name": "now"}</tool_call>', "", [("now", "{}")]),
        ('<tool_call>{"name": "f", "arguments": {"x": "</tool_call>"}}</tool_call>', "",
         [("f", '{"x": "</tool_call>"}')]),
        ('<tool_call>{"name": "add", "arguments": {"a": ', "", [("add", '{"a": ')]),
        (f"The tag <tool_call> is used so: {CALL}", "The tag <tool_call> is used so:", ADD),
        ('<tool_call>{"name": "add", "arguments": {"a": [1</tool_call>\nDone.', "Done.",
         [("add", '{"a": [1')]),
        ('a\n<tool_call>\n{"name": 3}\n</tool_call> b',
         'a\n<tool_call>\n{"name": 3}\n</tool_call> b', []),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
         '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', []),
        ('<tool_call>{"name": "add", "argu', '<tool_call>{"name": "add", "argu', []),
        ("1 <tool_ca", "1 <tool_ca", []),
    ],
)  # fmt: skip
def test_calls(text, content, calls):
    assert read(list(text)) == (content, "", calls)


@pytest.mark.parametrize(
    ("text", "content", "reasoning"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", "Yes.", "Hm."),
        ("\n<think>Hm.</think>Yes.", "Yes.", "Hm."),
        ("<think>\n\n</think>\n\nYes.", "Yes.", ""),
        ("<think>Hm", "", "Hm"),
        ("Write <think> so.", "Write <think> so.", ""),
        ("<thi", "<thi", ""),
    ],
)
def test_reasoning(text, content, reasoning):
    for tools in (True, False):
        assert read(list(text), tools=tools) == (content, reasoning, [])


def test_reasoning_that_the_prompt_has_begun():
    assert read(["Hm.", "</think>", "Yes."], inside_reasoning=True) == ("Yes.", "Hm.", [])


def test_parts_come_as_soon_as_they_are_certain():
    parser = StreamParser(tools=True, thinking=False)
    assert parser.push("One <") == [Content("One")]
    assert parser.push("b> two") == [Content(" <b> two")]
    assert parser.push('<tool_call>{"name": "f", "arguments": ') == []
    (start, arguments) = parser.push('{"x"')
    assert isinstance(start, ToolCallStart) and start.name == "f" and start.index == 0
    assert start.id.startswith("call_") and len(start.id) == 29 and start.id[5:].isalpha()
    assert arguments == ToolCallArguments(0, '{"x"')
    assert parser.push(": 1}") == [ToolCallArguments(0, ": 1}")]
    assert parser.push("}</tool_call>") == []
    assert parser.finish() == []
