"""POST /v1/embeddings: pooled hidden states, until there is a model trained for retrieval."""

import asyncio
import base64
import math
import secrets
import struct
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from heddle.engine.request import Embedded
from heddle.engine.request import Request as EngineRequest
from heddle.errors import RequestError
from heddle.server.disconnect import unless_disconnected
from heddle.server.record import RequestRecord
from heddle.server.served import Served, served_by
from heddle.server.submission import Submission
from heddle.server.wire import EmbeddingRequest, texts_or_ids

POOLING = "mean of the last hidden states, scaled to length 1; not trained for retrieval"
NUM_AT_ONCE = 8  # so that one request does not take every place in the engine's queue

router = APIRouter(tags=["embeddings"])


@router.post("/v1/embeddings")
async def create_embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """Return one vector for each input."""
    served = served_by(request)
    served.check_model(body.model)
    inputs = texts_or_ids(body.input)
    if not 1 <= len(inputs) <= served.settings.max_inputs:
        raise RequestError(
            f"input must hold 1 to {served.settings.max_inputs} texts, not {len(inputs)}",
            parameter="input",
        )
    prompts = await asyncio.to_thread(lambda: [served.prompt_ids(one) for one in inputs])
    num_tokens = request.state.record.num_prompt_tokens = sum(map(len, prompts))
    vectors = await unless_disconnected(
        request.receive, _embed(served, prompts, request.state.record)
    )
    encode = _base64 if body.encoding_format == "base64" else list
    data: list[dict[str, Any]] = [
        {"object": "embedding", "index": index, "embedding": encode(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return JSONResponse(
        {
            "object": "list",
            "data": data,
            "model": served.model_id,
            "usage": usage,
            "pooling": POOLING,
        }
    )


async def _embed(
    served: Served, prompts: Sequence[tuple[int, ...]], record: RequestRecord
) -> list[list[float]]:
    vectors: list[list[float]] = [[] for _ in prompts]
    for start in range(0, len(prompts), NUM_AT_ONCE):
        requests = [
            EngineRequest(
                request_id=secrets.token_hex(16), prompt=prompt, max_new_tokens=0, embed=True
            )
            for prompt in prompts[start : start + NUM_AT_ONCE]
        ]
        limits = served.limits
        async with Submission(served.engine, requests, record=record, limits=limits) as submission:
            async for arrivals in submission.arrivals():
                for index, event, _ in arrivals:
                    if isinstance(event, Embedded):
                        vectors[start + index] = _unit(event.vector)
    return vectors


def _unit(vector: Sequence[float]) -> list[float]:
    length = math.hypot(*vector)
    return [value / length for value in vector] if length else list(vector)


def _base64(vector: Sequence[float]) -> str:
    """Return the vector as little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
