"""What goes into the engine and what comes out: token ids in, events out.

The engine knows nothing of messages, templates or text. `server/turn.py` is the one caller that
turns chats into requests and events into text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from heddle.errors import HeddleError, RequestError

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn from the model's distribution.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 are off. `repetition_penalty`
    divides or multiplies logits of seen tokens (Keskar et al. 2019, arXiv:1909.05858);
    `frequency_penalty` and `presence_penalty` are subtracted for generated tokens as OpenAI
    documents them. The same `seed` draws the same tokens whatever else runs. `num_top_logprobs`:
    None reports none, 0 the chosen token's alone.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    num_top_logprobs: int | None = None

    def __post_init__(self):
        bounds = {
            "temperature": (0.0, 100.0),
            "top_k": (0, 1 << 31),
            "top_p": (0.0, 1.0),
            "min_p": (0.0, 1.0),
            "repetition_penalty": (0.01, 100.0),
            "frequency_penalty": (-2.0, 2.0),
            "presence_penalty": (-2.0, 2.0),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise RequestError(
                    f"{name} must lie between {low} and {high}, not {value}", parameter=name
                )


@dataclass(frozen=True, kw_only=True)
class Thinking:
    """How often each token may pass the thinking block, 1 being the plain network.

    Where `is_automatic`, `max_loops` is a bound and each token decides; else it is exact.
    """

    max_loops: int = 1
    is_automatic: bool = False


@dataclass(frozen=True, kw_only=True)
class Request:
    """One sequence to continue, to score or to embed.

    `prompt` holds token ids. Generation ends after `max_new_tokens` or at one of `stop_ids`, which
    is not reported as a token. `grammar` is an llguidance grammar as `grammar.py` writes it.
    `embed` asks for the mean of the last hidden states instead of tokens; `num_prompt_logprobs` for
    log-probabilities of the prompt's own tokens, from place `prompt_logprobs_from` on: what lies
    before it may come from the cache. Of waiting requests the one with the highest `priority` goes
    first; among equally urgent ones each `tenant`, whoever that is, gets its turn. `thinking`
    beyond one loop and `steer`, a number a cluster that is added to the choice of its experts, are
    for adaptive models.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    stop_ids: frozenset[int] = frozenset()
    grammar: str | None = None
    embed: bool = False
    num_prompt_logprobs: int | None = None
    prompt_logprobs_from: int = 1
    priority: int = 0
    tenant: str = ""
    thinking: Thinking = Thinking()
    steer: tuple[float, ...] | None = None


TopLogprobs = tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class TokenEvent:
    """A generated token; log-probabilities are natural logarithms, before temperature.

    `loops` and `clusters` are those of the position that predicted it: how often it passed the
    thinking block, and its share of each of `model.config.CLUSTERS`, empty without a fabric.
    """

    token_id: int
    logprob: float | None = None
    top_logprobs: TopLogprobs = ()
    loops: int = 1
    clusters: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PromptScored:
    """Log-probabilities of the prompt's tokens from the place asked for, given those before."""

    logprobs: tuple[float, ...]
    top_logprobs: tuple[TopLogprobs, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The mean of the last layer's normalised hidden states over the prompt, `width` numbers."""

    vector: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What the tokens that were computed took; those that came from the cache took nothing.

    Attributes:
        loops: how many tokens passed the thinking block so often, by number of loops.
        clusters: mean share of each cluster, empty without a fabric.
        active_params: mean number of parameters that a token used, each counted once.
        flops: floating-point operations in all.
        deepest_flops: about what the same tokens would have taken at the model's deepest setting.
    """

    loops: Mapping[int, int]
    clusters: tuple[float, ...]
    active_params: float
    flops: float
    deepest_flops: float

    @property
    def num_loops(self) -> int:
        """Passes through the thinking block, summed over tokens."""
        return sum(loops * count for loops, count in self.loops.items())


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The last event of every request. Times are seconds of wall clock.

    `stop` is the stop token that ended it, which `num_new_tokens` counts too. `error` is set when
    `reason` is "error".
    """

    reason: FinishReason
    num_prompt_tokens: int
    num_cached_tokens: int
    num_new_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    stop: TokenEvent | None = None
    error: HeddleError | None = None
    compute: Compute | None = None


Event = TokenEvent | PromptScored | Embedded | Finished
