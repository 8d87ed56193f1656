"""Grammars of answers: what they let through, tried with llguidance itself."""

import pytest
from llguidance import LLMatcher, LLTokenizer

from heddle.errors import RequestError
from heddle.server.constraint import MAX_CALLS, answer_grammar
from heddle.server.wire import ChatRequest
from heddle.text.tokenizer import Tokenizer
from tests.tiny import tiny_tokenizer

TOKENIZER = Tokenizer(tiny_tokenizer().to_str())
VOCABULARY = LLTokenizer(TOKENIZER.json, eos_token=2)
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": CITY}} for name in ("go", "see")
]
NAMED = {"type": "function", "function": {"name": "see"}}
OBJECT = {"type": "json_object"}


def call(name: str, arguments: str = '{"city": "Rome"}') -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def check(grammar: str) -> None:
    if problem := LLMatcher.validate_grammar(grammar, VOCABULARY):
        raise RequestError(problem)


def grammar_for(*, thinking: str = "never", **fields) -> str | None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    return answer_grammar(ChatRequest.model_validate(body), thinking=thinking, check=check)


def lets_through(text: str, *, thinking: str = "never", **fields) -> bool:
    matcher = LLMatcher(VOCABULARY, grammar_for(thinking=thinking, **fields))
    ids = TOKENIZER.encode(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def test_free_text_needs_no_grammar():
    assert grammar_for() is None
    assert grammar_for(response_format={"type": "text"}) is None
    assert grammar_for(tools=TOOLS, tool_choice="none") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello", True),
        (call("go"), True),
        ("Wait. " + call("see") + "\n" + call("go") + " Done.", True),
        (call("fly"), False),
        (call("go", '{"city": 5}'), False),
        (call("go", "{}"), False),
        ("Wait. " + call("fly"), False),
        ("<tool_call>", False),
        ("a < b <tool", True),
    ],
)
def test_auto(text, expected):
    assert lets_through(text, tools=TOOLS) is expected


def test_no_parallel_calls():
    fields = {"tools": TOOLS, "parallel_tool_calls": False}
    assert lets_through("Wait. " + call("go"), **fields) and lets_through("Hello", **fields)
    assert not lets_through(call("go") + "\n" + call("see"), **fields)
    assert not lets_through(call("go") + "\n" + call("see"), **fields, tool_choice="required")


def test_required_and_named():
    assert not lets_through("Hello", tools=TOOLS, tool_choice="required")
    assert lets_through(call("go") + "\n" + call("see"), tools=TOOLS, tool_choice="required")
    assert lets_through(call("see"), tools=TOOLS, tool_choice=NAMED)
    assert not lets_through(call("go"), tools=TOOLS, tool_choice=NAMED)
    assert not lets_through(call("see") + "\n" + call("see"), tools=TOOLS, tool_choice=NAMED)


def test_format_and_tools_together():
    fields = {"tools": TOOLS, "response_format": OBJECT}
    assert lets_through('{"a": 1}', **fields) and lets_through(call("go"), **fields)
    assert not lets_through("Hello", **fields)
    assert not lets_through('{"a": 1}', **fields, tool_choice="required")
    assert not lets_through(call("go"), **fields, tool_choice="none")


def test_thinking_model_may_think_before_the_form_begins():
    fields = {"thinking": "maybe", "response_format": OBJECT}
    assert lets_through('<think>hm {</think>\n\n{"a": 1}', **fields)
    assert lets_through('{"a": 1}', **fields)
    assert not lets_through("<think>hm</think>Hello", **fields)
    assert not lets_through("<think>hm</think>{}", response_format=OBJECT)


def test_thinking_that_the_template_began_ends_before_the_form_begins():
    fields = {"thinking": "begun", "response_format": OBJECT}
    assert lets_through('hm {</think>\n\n{"a": 1}', **fields)
    assert not lets_through('{"a": 1}', **fields)


def test_calls_cannot_go_on_for_ever():
    fields = {"tools": TOOLS, "tool_choice": "required"}
    assert lets_through("\n".join([call("see")] * MAX_CALLS), **fields)
    assert not lets_through("\n".join([call("see")] * (MAX_CALLS + 1)), **fields)


def test_white_space_cannot_run_away():
    assert not lets_through('{"a":    1}', response_format=OBJECT)
    assert not lets_through('{\n"a": 1}', response_format=OBJECT)


def test_references_inside_a_tool_are_followed():
    parameters = {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/place"}},
        "required": ["at"],
        "$defs": {"place": CITY},
    }
    tools = [*TOOLS, {"type": "function", "function": {"name": "be", "parameters": parameters}}]
    assert lets_through(call("be", '{"at": {"city": "Rome"}}'), tools=tools)
    assert not lets_through(call("be", '{"at": "Rome"}'), tools=tools)


@pytest.mark.parametrize(
    "schema", [{"type": "x"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}]
)
def test_bad_schema_is_named(schema):
    given = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    with pytest.raises(RequestError) as caught:
        grammar_for(response_format=given)
    assert caught.value.parameter == "response_format.json_schema.schema"
    assert caught.value.code == "invalid_schema"
