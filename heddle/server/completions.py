"""POST /v1/completions: text or token ids continued as they stand, without a chat template."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from heddle.engine.request import PromptScored, TokenEvent
from heddle.errors import RequestError
from heddle.server.choice import Piece
from heddle.server.dial import DialSetting
from heddle.server.disconnect import unless_disconnected
from heddle.server.logprobs import CompletionLogprobs
from heddle.server.served import Served, served_by
from heddle.server.spent import Routing
from heddle.server.sse import EventStream
from heddle.server.turn import Turn, TurnRun
from heddle.server.wire import CompletionRequest, texts_or_ids
from heddle.text.stream_parser import Content

DEFAULT_MAX_TOKENS = 16  # OpenAI's

router = APIRouter(tags=["completions"])


@router.post("/v1/completions")
async def create_completion(body: CompletionRequest, request: Request) -> Response:
    """Continue one or several prompts, at once or, with `stream`, as server-sent events."""
    served = served_by(request)
    served.check_model(body.model)
    dial = served.dials.read(body, request.state.record.bounds)
    turns = await asyncio.to_thread(_turns, served, body, dial)
    reply = _Reply(served, body, turns, served.run(turns, request))
    if body.stream:
        return EventStream(reply.chunks(), heartbeat_s=served.settings.heartbeat_s)
    return JSONResponse(await unless_disconnected(request.receive, reply.whole()))


def _turns(served: Served, body: CompletionRequest, dial: DialSetting) -> list[Turn]:
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if max_tokens == 0 and not body.echo:
        raise RequestError(
            "max_tokens 0 needs echo: there is nothing to answer", parameter="max_tokens"
        )
    scores_prompt = body.echo and (body.logprobs is not None or max_tokens == 0)
    sampling = body.sampling(num_top_logprobs=body.logprobs, vocab_size=served.vocab_size)
    return [
        Turn(
            prompt=served.prompt_ids(prompt),
            num_choices=body.n or 1,
            max_new_tokens=max_tokens,
            sampling=sampling,
            stops=body.stops(),
            stop_ids=served.stop_ids(body.stop_token_ids, ignore_eos=body.ignore_eos),
            num_prompt_logprobs=(body.logprobs or 0) if scores_prompt else None,
            dial=dial,
        )
        for prompt in texts_or_ids(body.prompt)
    ]


class _Echo(NamedTuple):
    """The prompt in front of an answer, empty where it is not asked for."""

    prompt: tuple[int, ...]
    scored: PromptScored | None

    def tokens(self) -> list[TokenEvent]:
        """Return it as if generated; its first token follows nothing and has no score."""
        logprobs = (None, *(self.scored.logprobs if self.scored else ()))
        tops = ((), *(self.scored.top_logprobs if self.scored else ()))
        return [
            TokenEvent(token_id=token_id, logprob=logprob, top_logprobs=top)
            for token_id, logprob, top in zip(self.prompt, logprobs, tops, strict=False)
        ]


class _Reply:
    """The continuations of one request as JSON, whole or in chunks."""

    def __init__(self, served: Served, body: CompletionRequest, turns: list[Turn], run: TurnRun):
        self._body = body
        self._run = run
        self._prompts = [turn.prompt for turn in turns for _ in range(turn.num_choices)]
        self._tokenizer = served.tokenizer
        self._logprobs = [CompletionLogprobs(served.tokenizer) for _ in self._prompts]
        self._routing = [Routing(served.tokenizer, served.dials.clusters) for _ in self._prompts]
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": served.model_id,
            "system_fingerprint": served.fingerprint,
        }

    async def whole(self) -> dict[str, Any]:
        """Return the `text_completion` object."""
        async with self._run as run:
            answers = await run.answers()
        choices = []
        for index, answer in enumerate(answers):
            echo = self._prompts[index] if self._body.echo else ()
            prompt = _Echo(echo, answer.prompt_scored)
            choices.append(self._choice(index, prompt, answer.piece, answer.finish_reason))
        ending = {"usage": run.usage.tokens(), "timings": run.usage.timings()}
        return {**self._head, "choices": choices, **ending}

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield objects that hold a piece each, the first an echoed prompt."""
        echoes = self._prompts if self._body.echo else [()] * len(self._prompts)
        async with self._run as run:
            for index, echo in enumerate(echoes):
                if self._body.logprobs is None or not echo:
                    yield self._chunk(self._choice(index, _Echo(echo, None), Piece(), None))
            async for index, piece, scored, finish_reason in run.updates():
                echo = echoes[index] if scored and self._body.logprobs is not None else ()
                if piece.parts or echo or piece.tokens or finish_reason:
                    prompt = _Echo(echo, scored)
                    yield self._chunk(self._choice(index, prompt, piece, finish_reason))
        if self._body.include_usage:
            ending = {"usage": run.usage.tokens(), "timings": run.usage.timings()}
            yield {**self._head, "choices": [], **ending}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        usage = {"usage": None} if self._body.include_usage else {}
        return {**self._head, "choices": [choice], **usage}

    def _choice(
        self, index: int, echo: _Echo, piece: Piece, finish_reason: str | None
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": index,
            "text": self._tokenizer.decode(list(echo.prompt), skip_special=False) + _text(piece),
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        if self._body.logprobs is not None:
            end = [] if piece.stop is None else [piece.stop]
            tokens = [*echo.tokens(), *piece.tokens, *end]
            choice["logprobs"] = self._logprobs[index].read(tokens)
        if self._body.include:
            choice["routing"] = self._routing[index].read(piece.tokens)
        return choice


def _text(piece: Piece) -> str:
    return "".join(part.text for part in piece.parts if isinstance(part, Content))
