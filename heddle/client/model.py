"""What every model looks like to those who talk to it: chats in, replies or deltas out.

`http.HttpModel` and `scripted.ScriptedModel` are the two forms; agents, evaluations and the command
line never know which they have. Messages and tools are dicts in OpenAI's shape,
https://platform.openai.com/docs/api-reference/chat/create
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

Message = dict[str, Any]
Tool = dict[str, Any]
Think = int | Literal["auto"]  # passes through the thinking block, or as many as each token needs


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A function that the model wants called; `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class ToolCallDelta:
    """A piece of a call; `id` and `name` come with the first piece of each `index`."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What an answer took on a Heddle server, over every token that was computed.

    `loops` counts tokens by how often they passed the thinking block, `clusters` holds mean shares
    by name, `active_params` is a token's mean, `flops` the sum, `deepest_flops` what
    it would have been at the model's deepest setting.
    """

    mean_loops: float
    loops: dict[int, int]
    clusters: dict[str, float]
    active_params: float
    flops: float
    deepest_flops: float


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Counts of tokens; cached ones are among the prompt's, reasoning ones among the new."""

    num_prompt_tokens: int
    num_new_tokens: int
    num_cached_tokens: int = 0
    num_reasoning_tokens: int = 0
    compute: Compute | None = None


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Where the server's time went; None where it did not say."""

    queue_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    first_token_s: float | None = None
    tokens_per_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A whole answer. `finish_reason` is OpenAI's: "stop", "length" or "tool_calls"."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    usage: Usage | None = None
    timings: Timings | None = None

    def as_message(self) -> Message:
        """Return the assistant's message that puts this answer into the conversation."""
        message: Message = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        return message


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What one event of a stream adds. The last ones bring `finish_reason`, `usage`, `timings`."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None


class Model(Protocol):
    """A model that chats; `sampling` takes the API's fields: `temperature`, `think`, ..."""

    @property
    def name(self) -> str:
        """Return the model's id."""
        ...

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        response_format: dict[str, Any] | None = None,
        **sampling: Any,
    ) -> Reply:
        """Return the answer to a conversation."""
        ...

    def stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        response_format: dict[str, Any] | None = None,
        **sampling: Any,
    ) -> Generator[Delta]:
        """Yield the answer as it is written; closing the generator cancels it."""
        ...


class Likelihood(NamedTuple):
    """How likely a text is after another.

    `logprob` is natural and summed over the text's tokens; `is_greedy` says whether each of them is
    the likeliest, and `compute` what it took, if the model tells.
    """

    logprob: float
    num_tokens: int
    is_greedy: bool
    compute: Compute | None = None


class Scorer(Protocol):
    """A model that says how likely texts are, as they stand, without a chat template."""

    def score(
        self, pairs: Sequence[tuple[str, str]], *, think: Think | None = None
    ) -> list[Likelihood]:
        """Return how likely each pair's second text is after its first, which may be empty.

        White space at the end of the first counts as the second's. Raises RequestError or
        RemoteError for texts that the model cannot read whole.
        """
        ...


class Writer(Protocol):
    """A model that goes on with text as it stands, without a chat template."""

    def complete(self, prompt: str, **sampling: Any) -> Reply:
        """Return what follows the prompt."""
        ...


def tool_result(call: ToolCall, text: str) -> Message:
    """Return the message that answers a call."""
    return {"role": "tool", "tool_call_id": call.id, "content": text}


def join(deltas: Iterable[Delta]) -> Reply:
    """Return the answer that the deltas of one stream make up."""
    text, reasoning, finish_reason = "", "", "stop"
    usage, timings = None, None
    calls: dict[int, ToolCall] = {}
    for delta in deltas:
        text += delta.text
        reasoning += delta.reasoning
        finish_reason = delta.finish_reason or finish_reason
        usage = delta.usage or usage
        timings = delta.timings or timings
        for piece in delta.tool_calls:
            begun = calls.get(piece.index) or ToolCall(id="", name="", arguments="")
            calls[piece.index] = ToolCall(
                id=piece.id or begun.id,
                name=piece.name or begun.name,
                arguments=begun.arguments + piece.arguments,
            )
    return Reply(
        text=text,
        reasoning=reasoning,
        tool_calls=tuple(calls[index] for index in sorted(calls)),
        finish_reason=finish_reason,
        usage=usage,
        timings=timings,
    )
