"""A model that says what it was told to: agents are tested with it, without weights or servers."""

import copy
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from heddle.client.model import Delta, Message, Reply, Tool, ToolCall, ToolCallDelta
from heddle.errors import HeddleError

Answer = str | ToolCall | Reply


@dataclass(frozen=True, kw_only=True)
class ScriptedRequest:
    """What a ScriptedModel was asked."""

    messages: list[Message]
    tools: list[Tool]
    response_format: dict[str, Any] | None
    sampling: dict[str, Any]


class ScriptedModel:
    """Gives the answers of its script one after another, and keeps each request in `requests`.

    An answer is a text, a tool call, a whole Reply, or a function from the request to one of these.
    """

    name = "scripted"

    def __init__(self, script: Sequence[Answer | Callable[[ScriptedRequest], Answer]]):
        self.requests: list[ScriptedRequest] = []
        self._script = list(script)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        response_format: dict[str, Any] | None = None,
        **sampling: Any,
    ) -> Reply:
        """Return the next answer. Raises HeddleError when the script has no more."""
        request = ScriptedRequest(
            messages=copy.deepcopy(list(messages)),
            tools=copy.deepcopy(list(tools or ())),
            response_format=response_format,
            sampling=sampling,
        )
        index = len(self.requests)
        if index == len(self._script):
            raise HeddleError(
                f"the script's {index} answers are used up; one more was asked for after "
                f"{request.messages[-1] if request.messages else None!r}"
            )
        self.requests.append(request)
        answer = self._script[index]
        return _as_reply(answer(request) if callable(answer) else answer)

    def stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        response_format: dict[str, Any] | None = None,
        **sampling: Any,
    ) -> Generator[Delta]:
        """Yield the next answer word by word."""
        reply = self.chat(messages, tools=tools, response_format=response_format, **sampling)
        for word in _words(reply.reasoning):
            yield Delta(reasoning=word)
        for word in _words(reply.text):
            yield Delta(text=word)
        for index, call in enumerate(reply.tool_calls):
            yield Delta(tool_calls=(ToolCallDelta(index=index, id=call.id, name=call.name),))
            for word in _words(call.arguments):
                yield Delta(tool_calls=(ToolCallDelta(index=index, arguments=word),))
        yield Delta(finish_reason=reply.finish_reason, usage=reply.usage, timings=reply.timings)


def _as_reply(answer: Answer) -> Reply:
    match answer:
        case str():
            return Reply(text=answer)
        case ToolCall():
            return Reply(tool_calls=(answer,), finish_reason="tool_calls")
        case Reply():
            return answer


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+", text)
