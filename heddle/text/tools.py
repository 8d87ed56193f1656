"""Tools: functions as schemas, checks of schemas from outside, and how a call is written.

Called by `chat`, `stream_parser`, the server's grammars and agents. Calls are written in the Hermes
convention, which Qwen3 and SmolLM3 were trained on too,
https://github.com/NousResearch/Hermes-Function-Calling:

    <tool_call>
    {"name": "weather", "arguments": {"city": "Paris"}}
    </tool_call>
"""

import inspect
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pydantic

from heddle.errors import RequestError
from heddle.text.json_values import is_array, is_object

TOOL_CALL_BEGIN = "<tool_call>"
TOOL_CALL_END = "</tool_call>"

_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ARGUMENT = re.compile(r"\*{0,2}(\w+)(?: *\(.*?\))?: *(.*)")


def function_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the OpenAI tool for a function, from its type hints and Google-style docstring.

    Raises TypeError for a parameter without a type hint, or one that cannot be passed by name.
    """
    summary, descriptions = _read_docstring(inspect.getdoc(function) or "")
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(
                f"{function.__name__}: a tool's parameters are passed by name, {name!r} cannot be"
            )
        if parameter.annotation is parameter.empty:
            raise TypeError(f"{function.__name__}: parameter {name!r} needs a type hint")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (
            parameter.annotation,
            pydantic.Field(default, description=descriptions.get(name)),
        )
    model = pydantic.create_model(
        function.__name__, __config__=pydantic.ConfigDict(extra="forbid"), **fields
    )
    parameters = _without_titles(model.model_json_schema())
    parameters.setdefault("required", [])
    return {
        "type": "function",
        "function": {"name": function.__name__, "description": summary, "parameters": parameters},
    }


def check_tools(tools: Sequence[Any]) -> None:
    """Raise RequestError, naming the field, unless `tools` are distinct OpenAI function tools."""
    names: set[str] = set()
    for index, tool in enumerate(tools):
        where = f"tools.{index}"
        if not is_object(tool) or tool.get("type") != "function":
            raise RequestError(f"{where}.type must be 'function'", parameter=f"{where}.type")
        function = tool.get("function")
        if not is_object(function):
            raise RequestError(f"{where}.function must be an object", parameter=f"{where}.function")
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RequestError(
                f"{where}.function.name must be 1 to 64 letters, digits, '_' or '-', not {name!r}",
                parameter=f"{where}.function.name",
            )
        if name in names:
            raise RequestError(f"two tools are named {name!r}", parameter=f"{where}.function.name")
        names.add(name)
        if not isinstance(function.get("description", ""), str):
            raise RequestError(
                f"{where}.function.description must be text",
                parameter=f"{where}.function.description",
            )
        _check_parameters(function.get("parameters"), f"{where}.function.parameters")


def call_schema(tools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON schema of what stands between the tags: a call of one of `tools`."""
    if len(tools) == 1:
        return _one_call(tools[0], "#")
    return {"anyOf": [_one_call(tool, f"#/anyOf/{index}") for index, tool in enumerate(tools)]}


def call_text(name: str, arguments: str) -> str:
    """Return a call as a model writes it; `arguments` is JSON text."""
    body = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {arguments}}}'
    return f"{TOOL_CALL_BEGIN}\n{body}\n{TOOL_CALL_END}"


def _check_parameters(schema: Any, where: str) -> None:
    if schema is None:
        return
    if not is_object(schema) or schema.get("type") != "object":
        raise RequestError(f"{where} must be a JSON schema of type 'object'", parameter=where)
    if not is_object(schema.get("properties", {})):
        raise RequestError(f"{where}.properties must be an object", parameter=f"{where}.properties")


def _one_call(tool: dict[str, Any], place: str) -> dict[str, Any]:
    function = tool["function"]
    parameters = function.get("parameters") or _NO_PARAMETERS
    return {
        "type": "object",
        "properties": {
            "name": {"const": function["name"]},
            "arguments": _move_references(parameters, f"{place}/properties/arguments"),
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _move_references(schema: Any, place: str) -> Any:
    """Return the schema with local references (`#...`) for its new place in another."""
    if is_object(schema):
        return {
            key: place + value[1:]
            if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else _move_references(value, place)
            for key, value in schema.items()
        }
    if is_array(schema):
        return [_move_references(item, place) for item in schema]
    return schema


def _without_titles(schema: Any) -> Any:
    """Drop the titles that pydantic makes of names; a property called "title" is no string."""
    if is_object(schema):
        return {
            key: _without_titles(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    if is_array(schema):
        return [_without_titles(item) for item in schema]
    return schema


def _read_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """Return what stands before the first section, and each argument under `Args:`."""
    summary, _, rest = f"\n{docstring}".partition("\nArgs:\n")
    summary = re.split(r"\n(?:Returns|Raises|Yields|Example|Examples):\n", summary)[0].strip()
    descriptions: dict[str, str] = {}
    indent, name = 0, ""
    for line in rest.splitlines():
        if line and not line[0].isspace():
            break
        depth = len(line) - len(line.lstrip())
        found = _ARGUMENT.match(line.strip())
        if found and (not name or depth <= indent):
            indent, name = depth, found[1]
            descriptions[name] = found[2]
        elif name and line.strip():
            descriptions[name] = f"{descriptions[name]} {line.strip()}".strip()
    return summary, descriptions
