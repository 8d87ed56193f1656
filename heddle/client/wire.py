"""OpenAI's JSON as the client's own objects. Called by `http`; what a server omits is empty."""

from typing import Any

from heddle.client.model import (
    Compute,
    Delta,
    Likelihood,
    Reply,
    Timings,
    ToolCall,
    ToolCallDelta,
    Usage,
)


def read_reply(body: dict[str, Any]) -> Reply:
    """Return a `chat.completion`."""
    choice = body["choices"][0]
    message = choice["message"]
    calls = [
        ToolCall(
            id=call["id"],
            name=call["function"]["name"],
            arguments=call["function"]["arguments"],
        )
        for call in message.get("tool_calls") or ()
    ]
    return Reply(
        text=message.get("content") or "",
        reasoning=_reasoning(message),
        tool_calls=tuple(calls),
        finish_reason=choice.get("finish_reason") or "stop",
        usage=_usage(body),
        timings=_timings(body),
    )


def read_completion(body: dict[str, Any]) -> Reply:
    """Return a `text_completion`."""
    choice = body["choices"][0]
    return Reply(
        text=choice["text"],
        finish_reason=choice.get("finish_reason") or "stop",
        usage=_usage(body),
        timings=_timings(body),
    )


def read_delta(body: dict[str, Any]) -> Delta:
    """Return a `chat.completion.chunk`; the one with the usage has no choice."""
    choices: list[dict[str, Any]] = body.get("choices") or [{}]
    choice = choices[0]
    delta: dict[str, Any] = choice.get("delta") or {}
    return Delta(
        text=delta.get("content") or "",
        reasoning=_reasoning(delta),
        tool_calls=tuple(_call_delta(call) for call in delta.get("tool_calls") or ()),
        finish_reason=choice.get("finish_reason"),
        usage=_usage(body),
        timings=_timings(body),
    )


def read_model_names(body: dict[str, Any]) -> list[str]:
    """Return the ids of a list of models."""
    return [model["id"] for model in body["data"]]


def read_embeddings(body: dict[str, Any]) -> list[list[float]]:
    """Return the vectors of a list of embeddings in the order of their texts."""
    return [each["embedding"] for each in sorted(body["data"], key=lambda each: each["index"])]


def read_likelihood(body: dict[str, Any], num_characters: int) -> Likelihood:
    """Return how likely the last characters of an echoed prompt are.

    They are counted from the end, because an echo may begin with a control token's name. A token
    that follows nothing has no score and is left out.
    """
    choice = body["choices"][0]
    seam = len(choice["text"]) - num_characters
    told = choice["logprobs"]
    starts = told["text_offset"]
    ends = [*starts[1:], len(choice["text"])]
    first = sum(start < seam and end <= seam for start, end in zip(starts, ends, strict=True))
    tokens = zip(told["token_logprobs"][first:], told["top_logprobs"][first:], strict=True)
    scored = [(logprob, max(top.values())) for logprob, top in tokens if logprob is not None]
    usage = _usage(body)
    return Likelihood(
        logprob=sum(logprob for logprob, _ in scored),
        num_tokens=len(scored),
        is_greedy=all(logprob >= highest for logprob, highest in scored),
        compute=usage.compute if usage else None,
    )


def _call_delta(call: dict[str, Any]) -> ToolCallDelta:
    function: dict[str, Any] = call.get("function") or {}
    return ToolCallDelta(
        index=call.get("index", 0),
        id=call.get("id"),
        name=function.get("name"),
        arguments=function.get("arguments") or "",
    )


def _reasoning(message: dict[str, Any]) -> str:
    """Servers use one of two names, ours both."""
    return message.get("reasoning_content") or message.get("reasoning") or ""


def _usage(body: dict[str, Any]) -> Usage | None:
    usage = body.get("usage")
    if not usage:
        return None
    prompt_details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
    new_details: dict[str, Any] = usage.get("completion_tokens_details") or {}
    return Usage(
        num_prompt_tokens=usage["prompt_tokens"],
        num_new_tokens=usage.get("completion_tokens", 0),
        num_cached_tokens=prompt_details.get("cached_tokens") or 0,
        num_reasoning_tokens=new_details.get("reasoning_tokens") or 0,
        compute=read_compute(usage.get("compute")),
    )


def read_compute(given: dict[str, Any] | None) -> Compute | None:
    """Return the `compute` that Heddle's server adds to the usage, if it did."""
    if not given:
        return None
    return Compute(
        mean_loops=given["mean_loops"],
        loops={int(loops): count for loops, count in given["loops"].items()},
        clusters=given["clusters"],
        active_params=given["active_params"],
        flops=given["flops"],
        deepest_flops=given["deepest_flops"],
    )


def _timings(body: dict[str, Any]) -> Timings | None:
    """Return the `timings` that Heddle's server adds, in seconds."""
    given = body.get("timings")
    if not given:
        return None

    def seconds(name: str) -> float | None:
        value = given.get(name)
        return None if value is None else value / 1000

    return Timings(
        queue_s=seconds("queue_ms"),
        prefill_s=seconds("prefill_ms"),
        decode_s=seconds("decode_ms"),
        first_token_s=seconds("time_to_first_token_ms"),
        tokens_per_s=given.get("tokens_per_second"),
    )
