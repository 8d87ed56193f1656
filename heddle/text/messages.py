"""Chat messages in OpenAI's shape, made ready for a chat template.

Called by `chat`. Source of the shape: https://platform.openai.com/docs/api-reference/chat/create
"""

import json
from collections.abc import Sequence
from typing import Any

from heddle.errors import RequestError
from heddle.text.json_values import is_array, is_object
from heddle.text.tools import TOOL_CALL_BEGIN, TOOL_CALL_END, call_text

Message = dict[str, Any]

_ROLES = ("system", "developer", "user", "assistant", "tool")
_MEDIA = {"image_url": "image", "input_image": "image", "input_audio": "audio", "file": "file"}


def read_messages(messages: Sequence[Any]) -> list[Message]:
    """Return the messages with contents as plain strings and one name for reasoning.

    Raises RequestError, naming the field, for unknown roles and for contents that are not text.
    """
    if not messages:
        raise RequestError("messages must hold at least one message", parameter="messages")
    return [_read_message(message, f"messages.{index}") for index, message in enumerate(messages)]


def with_argument_objects(messages: list[Message]) -> list[Message]:
    """Return the messages with each call's arguments as an object.

    Templates write it as JSON themselves. Arguments that are not JSON, as a model may have written
    them, stay the text they are.
    """
    return [
        {**message, "tool_calls": [_with_object(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def with_tools_as_text(
    messages: list[Message], tools: Sequence[dict[str, Any]] | None
) -> list[Message]:
    """Say in system, user and assistant messages alone what `tools`, calls and results say.

    For templates that know no tools. Results become a user's turn, those that follow each other one
    turn.
    """
    written: list[Message] = []
    follows_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        content = message["content"]
        if is_result:
            content = f"<tool_response>\n{content}\n</tool_response>"
        if is_result and follows_result:
            written[-1]["content"] += f"\n{content}"
        elif is_result:
            written.append({"role": "user", "content": content})
        else:
            calls = [
                call_text(**_name_and_arguments(call)) for call in message.get("tool_calls") or ()
            ]
            plain = {key: value for key, value in message.items() if key != "tool_calls"}
            written.append(plain | {"content": "\n".join(([content] if content else []) + calls)})
        follows_result = is_result
    if tools:
        if written[0]["role"] != "system":
            written.insert(0, {"role": "system", "content": ""})
        written[0]["content"] = f"{written[0]['content']}\n\n{_tools_section(tools)}".lstrip("\n")
    return written


def _read_message(message: Any, where: str) -> Message:
    if not is_object(message):
        raise RequestError(f"{where} must be an object", parameter=where)
    role = message.get("role")
    if role not in _ROLES:
        raise RequestError(
            f"{where}.role must be one of {', '.join(_ROLES)}, not {role!r}",
            parameter=f"{where}.role",
        )
    read = message | {
        "role": "system" if role == "developer" else role,  # OpenAI's later name for the same thing
        "content": _read_content(message.get("content"), f"{where}.content"),
    }
    if message.get("reasoning") and not message.get("reasoning_content"):
        read["reasoning_content"] = message["reasoning"]
    _check_calls(message.get("tool_calls") or [], f"{where}.tool_calls")
    return read


def _read_content(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not is_array(content):
        raise RequestError(f"{where} must be text or a list of parts", parameter=where)
    return "".join(_read_part(part, f"{where}.{index}") for index, part in enumerate(content))


def _read_part(part: Any, where: str) -> str:
    kind = part.get("type") if is_object(part) else None
    text = part.get("text") if is_object(part) else None
    if kind == "text" and isinstance(text, str):
        return text
    if kind in _MEDIA:
        raise RequestError(
            f"this model has no {_MEDIA[kind]} input", parameter=where, code="unsupported_content"
        )
    raise RequestError(f'{where} must be {{"type": "text", "text": ...}}', parameter=where)


def _check_calls(calls: Any, where: str) -> None:
    if not is_array(calls):
        raise RequestError(f"{where} must be a list", parameter=where)
    for index, call in enumerate(calls):
        _check_call(call, f"{where}.{index}")


def _check_call(call: Any, where: str) -> None:
    function = call.get("function") if is_object(call) else None
    if not is_object(function) or not all(
        isinstance(function.get(key), str) for key in ("name", "arguments")
    ):
        raise RequestError(
            f"{where}.function must have a name and arguments, both text",
            parameter=f"{where}.function",
        )


def _with_object(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
    except json.JSONDecodeError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _name_and_arguments(call: dict[str, Any]) -> dict[str, str]:
    return {key: call["function"][key] for key in ("name", "arguments")}


def _tools_section(tools: Sequence[dict[str, Any]]) -> str:
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    example = call_text("NAME", '{"ARGUMENT": "VALUE"}')
    return (
        f"You can use these functions, given as JSON schemas:\n<tools>\n{lines}\n</tools>\n\n"
        f"To use one, write its name and arguments as JSON between "
        f"{TOOL_CALL_BEGIN} and {TOOL_CALL_END}:\n{example}\n"
        "You then receive its result between <tool_response> and </tool_response>."
    )
