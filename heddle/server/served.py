"""What one application serves, made once and read by every route."""

import time

from fastapi import Request

import heddle
from heddle.engine.engine import Engine
from heddle.errors import RequestError
from heddle.server.dial import Dials
from heddle.server.limits import Limits
from heddle.server.metrics import Metrics
from heddle.server.settings import ServerSettings
from heddle.server.turn import Turn, TurnRun
from heddle.text.chat import ChatFormat
from heddle.text.tokenizer import Tokenizer


class Served:
    """One model behind one application."""

    def __init__(self, engine: Engine, settings: ServerSettings):
        checkpoint = engine.checkpoint
        self.engine = engine
        self.settings = settings
        self.metrics = Metrics(engine.stats)
        self.limits = Limits(
            max_open=settings.max_open,
            max_open_per_caller=settings.max_open_per_caller,
            max_open_tokens_per_caller=settings.max_open_tokens_per_caller,
            requests_per_minute=settings.requests_per_minute,
        )
        self.model_id = checkpoint.name
        self.dials = Dials(
            model_id=checkpoint.name,
            max_loops=engine.max_loops,
            clusters=engine.clusters,
            default=settings.think,
        )
        self.vocab_size = checkpoint.config.vocab_size
        self.created_at = int(time.time())
        self.fingerprint = f"heddle-{heddle.__version__}-{engine.config.dtype}"
        self.tokenizer = Tokenizer(checkpoint.tokenizer_json)
        self.chat_format = ChatFormat(
            checkpoint.chat_template,
            self.tokenizer,
            bos_id=checkpoint.bos_id,
            eos_ids=checkpoint.eos_ids,
            add_bos=checkpoint.add_bos,
        )

    def check_model(self, name: str | None) -> None:
        """Raise RequestError unless `name` is the model's, or left out."""
        if name is not None and name != self.model_id:
            raise RequestError(
                f"the model {name[:100]!r} is not served here; {self.model_id!r} is",
                parameter="model",
                code="model_not_found",
            )

    def stop_ids(self, given: list[int] | None, *, ignore_eos: bool | None) -> frozenset[int]:
        """Return the tokens that end an answer."""
        own = () if ignore_eos else self.engine.checkpoint.eos_ids
        return frozenset([*own, *(given or ())])

    def prompt_ids(self, prompt: str | list[int]) -> tuple[int, ...]:
        """Return a plain prompt as ids; in text, the names of control tokens stand for them."""
        if not isinstance(prompt, str):
            return tuple(prompt)
        checkpoint = self.engine.checkpoint
        begin = [checkpoint.bos_id] if checkpoint.add_bos and checkpoint.bos_id is not None else []
        return (*begin, *self.tokenizer.encode(prompt, special=True))

    def run(self, turns: list[Turn], request: Request) -> TurnRun:
        """Return the turns ready to be entered; raises RequestError for too many choices."""
        num_choices = sum(turn.num_choices for turn in turns)
        if num_choices > self.settings.max_choices:
            raise RequestError(
                f"{num_choices} answers at once are more than {self.settings.max_choices}",
                parameter="n",
                code="too_many_choices",
            )
        return TurnRun(
            self.engine,
            self.tokenizer,
            turns,
            record=request.state.record,
            metrics=self.metrics,
            limits=self.limits,
        )


def served_by(request: Request) -> Served:
    """Return what the request's application serves."""
    return request.app.state.served
