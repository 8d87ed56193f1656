"""POST /v1/chat/completions."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from heddle.engine.request import TokenEvent
from heddle.server.choice import Piece
from heddle.server.constraint import Thinking, answer_grammar
from heddle.server.dial import DialSetting
from heddle.server.disconnect import unless_disconnected
from heddle.server.logprobs import chat_logprobs
from heddle.server.served import Served, served_by
from heddle.server.spent import Routing
from heddle.server.sse import EventStream
from heddle.server.turn import Answer, Turn, TurnRun
from heddle.server.wire import ChatRequest
from heddle.text.stream_parser import Content, Reasoning, ToolCallStart

router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions")
async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation, at once or, with `stream`, as server-sent events."""
    served = served_by(request)
    served.check_model(body.model)
    dial = served.dials.read(body, request.state.record.bounds)
    turn = await asyncio.to_thread(_turn, served, body, dial)
    reply = _Reply(served, body, served.run([turn], request))
    if body.stream:
        return EventStream(reply.chunks(), heartbeat_s=served.settings.heartbeat_s)
    return JSONResponse(await unless_disconnected(request.receive, reply.whole()))


def _turn(served: Served, body: ChatRequest, dial: DialSetting) -> Turn:
    """Turn the request into token ids and a grammar; may take a while, so it runs off the loop."""
    chat_format = served.chat_format
    tool_choice = body.tool_choice or "auto"
    prompt = chat_format.render(
        body.plain_messages(),
        tools=body.plain_tools() or None,
        tool_choice=tool_choice if isinstance(tool_choice, str) else tool_choice.model_dump(),
        template_arguments=body.chat_template_kwargs,
    )
    takes_calls = bool(body.tools) and tool_choice != "none"
    thinking: Thinking = "maybe" if chat_format.thinks else "never"
    if chat_format.opens_reasoning(prompt):
        thinking = "begun"
    grammar = answer_grammar(body, thinking=thinking, check=served.engine.check_grammar)
    return Turn(
        prompt=tuple(prompt),
        prompt_field="messages",
        num_choices=body.n or 1,
        max_new_tokens=body.max_completion_tokens or body.max_tokens,
        sampling=body.sampling(
            num_top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            vocab_size=served.vocab_size,
        ),
        stops=body.stops(),
        stop_ids=served.stop_ids(body.stop_token_ids, ignore_eos=body.ignore_eos),
        grammar=grammar,
        make_parser=lambda: chat_format.parser(tools=takes_calls, prompt=prompt),
        dial=dial,
    )


class _Reply:
    """The answers of one request as JSON, whole or in chunks."""

    def __init__(self, served: Served, body: ChatRequest, run: TurnRun):
        self._served = served
        self._body = body
        self._run = run
        self._routing = [Routing(served.tokenizer, served.dials.clusters) for _ in run.choices]
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": served.model_id,
            "system_fingerprint": served.fingerprint,
        }

    async def whole(self) -> dict[str, Any]:
        """Return the `chat.completion` object."""
        async with self._run as run:
            answers = await run.answers()
        choices = [
            {
                "index": index,
                "message": _message(answer),
                "finish_reason": answer.finish_reason,
                **self._told_of(index, answer.piece.tokens),
            }
            for index, answer in enumerate(answers)
        ]
        ending = {"usage": run.usage.tokens(), "timings": run.usage.timings()}
        return {**self._head, "object": "chat.completion", "choices": choices, **ending}

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield `chat.completion.chunk` objects."""
        async with self._run as run:
            for index in range(len(run.choices)):
                delta = {"role": "assistant", "content": "", "refusal": None}
                yield self._chunk(index, delta, self._told_of(index, []))
            async for index, piece, _, finish_reason in run.updates():
                told = self._told_of(index, piece.tokens)
                if piece.parts or any(told.values()) or finish_reason:
                    yield self._chunk(index, _delta(piece), told, finish_reason)
        if self._body.include_usage:
            ending = {"usage": run.usage.tokens(), "timings": run.usage.timings()}
            yield {**self._head, "object": "chat.completion.chunk", "choices": [], **ending}

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        told: dict[str, Any],
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason, **told}
        usage = {"usage": None} if self._body.include_usage else {}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **usage}

    def _told_of(self, index: int, tokens: list[TokenEvent]) -> dict[str, Any]:
        """Return what a choice says of its tokens: `logprobs`, and `routing` where asked for."""
        wanted = self._body.logprobs and tokens
        logprobs = chat_logprobs(tokens, self._served.tokenizer) if wanted else None
        if not self._body.include:
            return {"logprobs": logprobs}
        return {"logprobs": logprobs, "routing": self._routing[index].read(tokens)}


def _message(answer: Answer) -> dict[str, Any]:
    """Return an assistant's message: a delta that holds everything."""
    delta = _delta(answer.piece)
    calls = [
        {key: value for key, value in call.items() if key != "index"}
        for call in delta.pop("tool_calls", ())
    ]
    empty = {"role": "assistant", "content": None if calls else "", "refusal": None}
    return {**empty, **delta, **({"tool_calls": calls} if calls else {})}


def _delta(piece: Piece) -> dict[str, Any]:
    """Return what changed. Clients know reasoning by either of two names, so it has both."""
    delta: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    for part in piece.parts:
        match part:
            case Content():
                delta["content"] = delta.get("content", "") + part.text
            case Reasoning():
                text = delta.get("reasoning", "") + part.text
                delta["reasoning"] = delta["reasoning_content"] = text
            case ToolCallStart():
                function = {"name": part.name, "arguments": ""}
                calls[part.index] = {
                    "index": part.index,
                    "id": part.id,
                    "type": "function",
                    "function": function,
                }
            case _:
                empty = {"index": part.index, "function": {"arguments": ""}}
                calls.setdefault(part.index, empty)["function"]["arguments"] += part.text
    if calls:
        delta["tool_calls"] = list(calls.values())
    return delta
