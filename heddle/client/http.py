"""A model behind any server that speaks OpenAI's API: Heddle's own, or another."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar

from heddle import config
from heddle.client.connection import Connection
from heddle.client.model import Delta, Likelihood, Message, Reply, Think, Tool
from heddle.client.wire import (
    read_completion,
    read_delta,
    read_embeddings,
    read_likelihood,
    read_model_names,
    read_reply,
)
from heddle.errors import RemoteError, RequestError
from heddle.text.scored import move_spaces

Read = TypeVar("Read")


class HttpModel:
    """One model of one server; a context manager that closes its connections.

    Every method raises RemoteError when the server cannot be reached or answers with an error.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        max_retries: int = 3,
    ):
        """Connect to nothing yet.

        `base_url` may end with `/v1` or not. Without `model`, the server's first is used; without
        `api_key`, `$HEDDLE_API_KEY`. `timeout_s` is the longest wait for the next byte.
        """
        self._model = model
        self._connection = Connection(
            base_url,
            api_key=api_key or config.api_key(),
            timeout_s=timeout_s,
            max_retries=max_retries,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    @property
    def name(self) -> str:
        """Return the model's id, asking the server if none was given."""
        if self._model is None:
            names = self.models()
            if not names:
                raise RemoteError("the server has no model", status=200, code="no_model")
            self._model = names[0]
        return self._model

    def models(self) -> list[str]:
        """Return the ids of the server's models."""
        return _understood(read_model_names, self._connection.get("/models"))

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        response_format: dict[str, Any] | None = None,
        **sampling: Any,
    ) -> Reply:
        """Return the answer to a conversation."""
        body = self._chat_body(messages, tools, response_format, sampling)
        return _understood(read_reply, self._connection.post("/chat/completions", body))

    def stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        response_format: dict[str, Any] | None = None,
        **sampling: Any,
    ) -> Generator[Delta]:
        """Yield the answer as it is written.

        Whoever stops reading, by leaving the loop or by closing the generator, closes the
        connection, upon which the server stops writing.
        """
        body = self._chat_body(messages, tools, response_format, sampling)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        with closing(self._connection.stream("/chat/completions", body)) as chunks:
            for chunk in chunks:
                yield _understood(read_delta, chunk)

    def complete(self, prompt: str, **sampling: Any) -> Reply:
        """Return what follows a text, which is given to the model without a chat template."""
        body = {**sampling, "model": self.name, "prompt": prompt}
        return _understood(read_completion, self._connection.post("/completions", body))

    def score(
        self, pairs: Sequence[tuple[str, str]], *, think: Think | None = None
    ) -> list[Likelihood]:
        """Return how likely each pair's second text is after its first; see `model.Scorer`.

        The server must be able to report log-probabilities of prompts (`echo` with `logprobs`). A
        token that lies across the seam counts as the second text's. Nothing comes before a first
        token, so where the first text is empty that token has no score.
        """
        return [self._likelihood(*pair, think) for pair in pairs]

    def _likelihood(self, context: str, continuation: str, think: Think | None) -> Likelihood:
        context, continuation = move_spaces(context, continuation)
        body: dict[str, Any] = {
            "model": self.name,
            "prompt": context + continuation,
            "max_tokens": 0,
            "echo": True,
            "logprobs": 1,
            "temperature": 0,
        }
        if think is not None:
            body["think"] = {"loops": think}
        answer = self._connection.post("/completions", body)
        return _understood(lambda read: read_likelihood(read, len(continuation)), answer)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector for each text, in order."""
        body = {"model": self.name, "input": list(texts), "encoding_format": "float"}
        return _understood(read_embeddings, self._connection.post("/embeddings", body))

    def _chat_body(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None,
        response_format: dict[str, Any] | None,
        sampling: dict[str, Any],
    ) -> dict[str, Any]:
        if sampling.get("n", 1) != 1:
            raise RequestError("a Reply is one answer: n must be 1", parameter="n")
        body = {**sampling, "model": self.name, "messages": list(messages)}
        if tools:
            body["tools"] = list(tools)
        if response_format:
            body["response_format"] = response_format
        return body


def _understood(read: Callable[[dict[str, Any]], Read], body: dict[str, Any]) -> Read:
    """Return what `read` makes of an answer. Raises RemoteError when it lacks something."""
    try:
        return read(body)
    except (LookupError, TypeError, AttributeError) as error:
        raise RemoteError(
            f"the server's answer is not in OpenAI's shape: {error!r}",
            status=200,
            code="unexpected_answer",
        ) from error
