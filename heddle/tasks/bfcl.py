"""The Berkeley Function-Calling Leaderboard, single turn: is the right function called rightly?

A call is right by its parsed arguments, as the leaderboard's checker of syntax trees has it:
https://gorilla.cs.berkeley.edu/leaderboard.html (Patil et al., bfcl-eval 2026.3.23). Rows hold
`prompt`, `tools`, `meta.category` and `answer`: a list of expected calls, each {name: {argument:
[accepted values]}}, where "" says that it may be left out; or "no_call" or "any_call".
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from heddle.tasks.data_folder import Row, asked_from
from heddle.tasks.evaluation import Answer, Asked, Generation, Scores

FILE = "bfcl_single_turn.jsonl"

# Their expected values are Java's and JavaScript's literals, which would need those languages.
_OTHER_LANGUAGES = ("simple_java", "simple_javascript")
_MAX_TOKENS = 512
# The leaderboard's words for types, as JSON schema knows them (its own table).
_SCHEMA_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def ask(data: Path | None) -> Iterator[Asked]:
    """Yield the questions of all categories but those on other programming languages."""
    for asked in asked_from(FILE, question, group=_category)(data):
        if asked.group not in _OTHER_LANGUAGES:
            yield asked


def question(row: Row) -> Generation:
    """Ask with tools; their names get "_" for ".", which OpenAI's names cannot hold."""
    functions = {_tool_name(tool["name"]): _as_schema(tool["parameters"]) for tool in row["tools"]}
    tools = tuple(
        {
            "type": "function",
            "function": {
                "name": _tool_name(tool["name"]),
                "description": tool["description"],
                "parameters": _as_schema(tool["parameters"]),
            },
        }
        for tool in row["tools"]
    )
    expected = row["answer"]
    if expected not in ("no_call", "any_call") and not isinstance(expected, list):
        raise ValueError("answer must be a list of calls, 'no_call' or 'any_call'")

    def grade(answer: Answer) -> Scores:
        if expected in ("no_call", "any_call"):
            return {"accuracy": float(bool(answer.calls) == (expected == "any_call"))}
        calls = [(call.name, _arguments(call.arguments)) for call in answer.calls]
        return {"accuracy": float(_all_match(calls, expected, functions))}

    messages = ({"role": "user", "content": row["prompt"]},)
    return Generation(messages, _MAX_TOKENS, grade, tools=tools)


def _all_match(
    calls: list[tuple[str, dict[str, Any] | None]],
    expected: Sequence[Mapping[str, Any]],
    functions: Mapping[str, Mapping[str, Any]],
) -> bool:
    """Return whether each expected call has one of its own, in whatever order, and no more."""
    left = list(calls)
    for wanted in expected:
        [(name, accepted)] = wanted.items()
        name = _tool_name(name)
        for call in left:
            if call[0] == name and _matches(call[1], accepted, functions[name]):
                left.remove(call)
                break
        else:
            return False
    return not left


def _matches(
    arguments: dict[str, Any] | None, accepted: Mapping[str, list[Any]], schema: Mapping[str, Any]
) -> bool:
    if arguments is None or not set(schema.get("required", ())) <= set(arguments):
        return False
    if any(name not in arguments and "" not in values for name, values in accepted.items()):
        return False
    return all(
        name in accepted
        and name in schema["properties"]
        and _is_accepted(value, accepted[name], schema["properties"][name])
        for name, value in arguments.items()
    )


def _is_accepted(value: Any, accepted: Sequence[Any], schema: Mapping[str, Any]) -> bool:
    """A value of another type than declared is right only where the accepted ones have it too."""
    like = next((type(option) for option in accepted if option != ""), None)
    if not _fits(value, schema) and type(value) is not like:
        return False
    return any(_same(value, option) for option in accepted)


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    kind = schema["type"]
    if isinstance(value, bool) and kind != "boolean":
        return False
    if isinstance(value, list) and kind == "array":
        return all(_fits(item, schema["items"]) for item in value)
    return isinstance(value, _TYPES[kind])


def _same(value: Any, accepted: Any) -> bool:
    """An object lists accepted values for each key; what it holds in turn must be equal."""
    if isinstance(value, list) and isinstance(accepted, list):
        return len(value) == len(accepted) and all(map(_same, value, accepted))
    if isinstance(value, dict) and isinstance(accepted, dict):
        return set(value) <= set(accepted) and all(
            any(_equal(value[key], option) for option in options) if key in value else "" in options
            for key, options in accepted.items()
        )
    return _equal(value, accepted)


def _equal(value: Any, accepted: Any) -> bool:
    """Text is compared without case, spaces and most marks."""
    if isinstance(value, str) and isinstance(accepted, str):
        return _plain(value) == _plain(accepted)
    return isinstance(value, bool) == isinstance(accepted, bool) and value == accepted


def _plain(text: str) -> str:
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')


def _arguments(text: str) -> dict[str, Any] | None:
    try:
        arguments = json.loads(text)
    except ValueError:
        return None
    return arguments if isinstance(arguments, dict) else None


def _tool_name(name: str) -> str:
    return name.replace(".", "_")


def _category(row: Row) -> str:
    return row["meta"]["category"]


def _as_schema(given: Any) -> Any:
    """Return the schema with the names of types that JSON schema has."""
    if isinstance(given, list):
        return [_as_schema(item) for item in given]
    if not isinstance(given, dict):
        return given
    schema = {key: _as_schema(value) for key, value in given.items()}
    if isinstance(schema.get("type"), str):
        schema["type"] = _SCHEMA_TYPES.get(schema["type"], schema["type"])
    return schema
