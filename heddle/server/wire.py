"""The fields that requests may hold, as OpenAI's reference names them.

Read by the routes, by the generated OpenAPI description and by the test that compares it with
docs/api.md. Source: https://platform.openai.com/docs/api-reference
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from heddle.engine.request import Sampling
from heddle.errors import RequestError
from heddle.server.failures import nearest

NUM_TOP_LOGPROBS = 20
NUM_STOPS = 16
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
TokenId = Annotated[int, Field(ge=0)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
Prompt = (
    str
    | TokenIds
    | Annotated[list[str], Field(fail_fast=True, min_length=1)]
    | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1)]
)
Stop = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Wire(BaseModel):
    """A JSON object whose every field is used, ignored on purpose, or refused with a reason.

    `ignored` fields are OpenAI's that change no answer here. `refused` ones would change it and
    cannot: null is let through, anything else is an error, as is a name that nobody knows.
    """

    model_config = ConfigDict(strict=True, extra="forbid")
    ignored: ClassVar[frozenset[str]] = frozenset()
    refused: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _sort_fields(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        fields = cls.used()
        for name in data.keys() - fields - cls.ignored:
            if name not in cls.refused:
                hint = nearest(name, [*fields, *cls.refused])
                raise _field_error("unknown_field", name, f"there is no such field{hint}")
            if data[name] is not None:
                raise _field_error("unsupported_field", name, f"not supported: {cls.refused[name]}")
        return {name: value for name, value in data.items() if name in fields}

    @classmethod
    def used(cls) -> set[str]:
        """Return the names of the fields that have an effect."""
        return {field.alias or name for name, field in cls.model_fields.items()}


def _field_error(code: str, field: str, message: str) -> PydanticCustomError:
    """Return an error about one field; `failures` reads its context."""
    return PydanticCustomError(
        "field_error", "{text}", {"text": message, "field": field, "code": code}
    )


class StreamOptions(Wire):
    """What a stream holds besides the answer."""

    ignored = frozenset({"include_obfuscation"})

    include_usage: bool | None = None


class Think(Wire):
    """How often each token passes the thinking block: an exact number, or as each token needs."""

    loops: Annotated[int, Field(ge=1)] | Literal["auto"]


class GenerationFields(Wire):
    """What chat and plain completions share; `top_k` and what follows are not OpenAI's."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: int | None = Field(None, ge=-(1 << 62), lt=1 << 62)
    stop: Stop | Annotated[list[Stop], Field(max_length=NUM_STOPS)] | None = None
    n: int | None = Field(None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    reasoning_effort: Effort | None = None
    top_k: int | None = Field(None, ge=0, lt=1 << 31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    think: Think | None = None
    alignment: float | None = Field(None, ge=-1, le=1)
    steer: dict[str, Annotated[float, Field(allow_inf_nan=False)]] | None = None
    include: list[Literal["routing"]] | None = None

    def sampling(self, *, num_top_logprobs: int | None, vocab_size: int) -> Sampling:
        """Return how tokens are drawn; what the request leaves out keeps OpenAI's defaults."""
        fields = (
            "temperature", "top_p", "top_k", "min_p", "seed",
            "repetition_penalty", "frequency_penalty", "presence_penalty",
        )  # fmt: skip
        given = {name: getattr(self, name) for name in fields if getattr(self, name) is not None}
        return Sampling(
            **given,
            logit_bias=_token_biases(self.logit_bias or {}, vocab_size),
            num_top_logprobs=num_top_logprobs,
        )

    def stops(self) -> tuple[str, ...]:
        """Return the stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)


def _token_biases(given: Mapping[str, float], vocab_size: int) -> dict[int, float]:
    for word in given:
        if not (word.isascii() and word.isdecimal() and len(word) < 10 and int(word) < vocab_size):
            raise RequestError(
                f"logit_bias: {word[:20]!r} is not a token id: they are 0 to {vocab_size - 1}",
                parameter="logit_bias",
                code="invalid_value",
            )
    return {int(word): bias for word, bias in given.items()}


class TextPart(Wire):
    """A piece of a message. Other kinds need a model that sees or hears."""

    type: Literal["text"]
    text: str


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class FunctionCall(Wire):
    """Which function the model called, with its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(Wire):
    """A call that an assistant made earlier in the conversation."""

    ignored = frozenset({"index"})

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Wire):
    """One message. Official clients send an answer back with all its fields."""

    ignored = frozenset({"name", "refusal", "annotations"})
    refused = {
        "audio": "this model reads text only",
        "function_call": "use tool_calls",
    }

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[
        Annotated[list[TextPart], Field(fail_fast=True)] | None, BeforeValidator(_as_parts)
    ] = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _fits_role(self) -> "Message":
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise _field_error(
                "missing_field", "content", f"a message of role {self.role!r} needs content"
            )
        if self.role == "tool" and self.tool_call_id is None:
            raise _field_error(
                "missing_field", "tool_call_id", "a message of role 'tool' needs tool_call_id"
            )
        if self.role != "assistant" and self.tool_calls:
            raise _field_error(
                "invalid_value", "tool_calls", "only an assistant's message has tool_calls"
            )
        return self


class Function(Wire):
    """A function that the model may call; `parameters` is enforced, `strict` or not."""

    ignored = frozenset({"strict"})

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Wire):
    """A tool offered to the model."""

    type: Literal["function"]
    function: Function


class ChosenFunction(Wire):
    """The name of a function."""

    name: str


class ToolChoice(Wire):
    """The one tool that must be called."""

    type: Literal["function"]
    function: ChosenFunction


class JsonSchema(Wire):
    """A schema that the answer must follow, `strict` or not."""

    ignored = frozenset({"strict", "description"})

    name: Name
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ResponseFormat(Wire):
    """What form the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise _field_error("missing_field", "json_schema", "needed by the type json_schema")
        return self


class ChatRequest(GenerationFields):
    """The body of POST /v1/chat/completions."""

    ignored = frozenset({
        "metadata", "prediction", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "safety_identifier", "service_tier", "user",
    })  # fmt: skip
    refused = {
        "audio": "this model writes text only",
        "function_call": "use tool_choice",
        "functions": "use tools",
        "moderation": "this server has no moderation model",
        "verbosity": "ask for it in a message",
        "web_search_options": "this server does not search",
    }

    messages: Annotated[list[Message], Field(fail_fast=True), Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=NUM_TOP_LOGPROBS)
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise _field_error("invalid_value", "top_logprobs", "needs logprobs to be true")
        if self.max_tokens == 0:
            raise _field_error("invalid_value", "max_tokens", "must be at least 1")
        named = self.tool_choice.function.name if isinstance(self.tool_choice, ToolChoice) else None
        if (named or self.tool_choice == "required") and not self.tools:
            raise _field_error("invalid_value", "tool_choice", "needs tools")
        if named and named not in [tool.function.name for tool in self.tools or ()]:
            raise _field_error("invalid_value", "tool_choice", f"{named[:64]!r} is not among tools")
        return self

    def plain_messages(self) -> list[dict[str, Any]]:
        """Return the messages as plain data."""
        return [message.model_dump(exclude_none=True) for message in self.messages]

    def plain_tools(self) -> list[dict[str, Any]]:
        """Return the tools as plain data."""
        return [tool.model_dump(exclude_none=True) for tool in self.tools or ()]


class CompletionRequest(GenerationFields):
    """The body of POST /v1/completions."""

    ignored = frozenset({"user"})
    refused = {
        "best_of": "draw n answers with logprobs and choose among them",
        "suffix": "this model was not trained to fill in",
    }

    prompt: Prompt
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=NUM_TOP_LOGPROBS)


class EmbeddingRequest(Wire):
    """The body of POST /v1/embeddings."""

    ignored = frozenset({"user"})
    refused = {"dimensions": "a pooled hidden state cannot be shortened and keep its meaning"}

    model: str | None = None
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None


def texts_or_ids(given: str | list[Any]) -> list[str | list[int]]:
    """Return the texts, or sequences of token ids, of a `prompt` or `input` field as a list."""
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]  # pyright: ignore[reportReturnType]
    return given
