"""What a request demands of the answer's form, as one llguidance grammar.

Syntax: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from llguidance import LLMatcher

from heddle.errors import RequestError
from heddle.server.wire import ChatRequest, ResponseFormat, ToolChoice
from heddle.text.stream_parser import THINK_BEGIN, THINK_END
from heddle.text.tools import TOOL_CALL_BEGIN, TOOL_CALL_END, call_schema, check_tools

CheckGrammar = Callable[[str], None]

# One space where people put one: a small model cannot get lost in white space.
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


# A small model can repeat one call until its tokens run out: an answer makes at most this many.
MAX_CALLS = 16

Thinking = Literal["never", "maybe", "begun"]


def answer_grammar(body: ChatRequest, *, thinking: Thinking, check: CheckGrammar) -> str | None:
    """Return the grammar of the answer, None where any text will do.

    `thinking`: whether the model writes reasoning first, "begun" when the prompt ends inside it.
    `check` raises RequestError for a grammar that does not compile; what is raised here names the
    field that holds the schema.
    """
    schema = _format_schema(body.response_format, check)
    tools = _callable_tools(body, check)
    if schema is None and not tools:
        return None
    rules = []
    if tools:
        rules += [
            f"call: {json.dumps(TOOL_CALL_BEGIN)} call_rest",
            f'call_rest: "\\n" call_body "\\n" {json.dumps(TOOL_CALL_END)}',
            f"call_body: {_json_rule(call_schema(tools))}",
        ]
    if schema is not None:
        rules.append(f"body: {_json_rule(schema)}")
    several = body.parallel_tool_calls is not False and not isinstance(body.tool_choice, ToolChoice)
    calls = f'call ("\\n" call){{0,{MAX_CALLS - 1}}}' if several else "call"
    if tools and body.tool_choice in (None, "auto"):
        if schema is None:
            return _free_text_grammar(rules[1:], several=several)
        rules.append(f"answer: {calls} | body")
    else:
        rules.append(f"answer: {calls if tools else 'body'}")
    if thinking == "never":
        return _lark(["start: answer", *rules])
    start = "start: think? answer" if thinking == "maybe" else "start: think_rest answer"
    return _lark([start, *_think_rules(), *rules])


def _free_text_grammar(rules: Sequence[str], *, several: bool) -> str:
    """Return the grammar of text in which a call, once begun, must be complete and well-formed."""
    start = "start: free_call* TEXT" if several else "start: free_call | TEXT"
    begin = f"call_begin[lazy]: TEXT {json.dumps(TOOL_CALL_BEGIN)}"
    return _lark([start, "free_call: call_begin call_rest", begin, r"TEXT: /(.|\n)*/", *rules])


def _think_rules() -> list[str]:
    end = THINK_END.replace("/", r"\/")
    return [
        f"think: {json.dumps(THINK_BEGIN)} think_rest",
        r"think_rest: think_end /\s*/",
        rf"think_end[lazy]: /(.|\n)*{end}/",
    ]


def _lark(rules: Sequence[str]) -> str:
    return "\n".join(["%llguidance {}", *rules, ""])


def _json_rule(schema: dict[str, Any]) -> str:
    return "%json " + json.dumps(schema | {"x-guidance": SPACING})


def _format_schema(given: ResponseFormat | None, check: CheckGrammar) -> dict[str, Any] | None:
    if given is None or given.type == "text":
        return None
    if given.json_schema is None or given.json_schema.schema_ is None:
        return {"type": "object"}
    _check_schema(given.json_schema.schema_, "response_format.json_schema.schema", check)
    return given.json_schema.schema_


def _callable_tools(body: ChatRequest, check: CheckGrammar) -> list[dict[str, Any]]:
    """Return the tools that the answer may call, as plain data."""
    tools = body.plain_tools()
    check_tools(tools)
    for index, tool in enumerate(tools):
        if parameters := tool["function"].get("parameters"):
            _check_schema(parameters, f"tools.{index}.function.parameters", check)
    if body.tool_choice == "none":
        return []
    if isinstance(body.tool_choice, ToolChoice):
        name = body.tool_choice.function.name
        return [tool for tool in tools if tool["function"]["name"] == name]
    return tools


def _check_schema(schema: dict[str, Any], where: str, check: CheckGrammar) -> None:
    try:
        check(LLMatcher.grammar_from_json_schema(schema))
    except RequestError as error:
        raise RequestError(f"{where}: {error}", parameter=where, code="invalid_schema") from error
