"""Put the questions of a set to a model, several at a time, and keep each answer as it comes.

Called by `heddle eval`. The model is one of `client`'s: nothing here knows where it runs.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from heddle.client.model import Compute, Likelihood, Model, Scorer, Think, Writer
from heddle.errors import DataError, HeddleError, RemoteError
from heddle.evals.figures import Summary, summarise
from heddle.evals.records import Keeper, Record, Settings, Values
from heddle.tasks.evaluation import (
    Answer,
    Asked,
    Call,
    Choices,
    Continuation,
    EvalSet,
    Generation,
    Passage,
    Scores,
)

log = logging.getLogger(__name__)


class ChatWriter(Model, Writer, Protocol):
    """A model that chats, and goes on with plain text."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to be questioned, what scores texts for it, and how deep it may think."""

    name: str
    model: ChatWriter
    scorer: Scorer
    think: Think | None
    identity: Mapping[str, Any]


def evaluate(
    eval_set: EvalSet,
    subject: Subject,
    *,
    data: Path | None,
    limit: int | None,
    out: Path,
    num_at_once: int,
    on_answer: Callable[[Record], None],
) -> Summary:
    """Put a set's questions, but for those answered in an earlier start, and return the figures.

    A question that fails is kept with its error and counted; `on_answer` hears of every one. Raises
    RemoteError when the server cannot be reached, and DataError when every question failed.
    """
    where = str(data.resolve()) if data and eval_set.files else None
    settings = Settings(
        set=eval_set.name,
        model=subject.name,
        think=subject.think,
        identity={**subject.identity, "data": where},
    )
    records: dict[str, Record] = {}
    with Keeper(settings, out) as keeper:

        def unanswered() -> Iterator[Asked]:
            seen: set[str] = set()
            for asked in eval_set.questions(data, limit=limit):
                if asked.id in seen:
                    raise DataError(f"{eval_set.name} has two questions of the id {asked.id!r}")
                seen.add(asked.id)
                if asked.id in keeper.answered:
                    records[asked.id] = keeper.answered[asked.id]
                    on_answer(records[asked.id])
                else:
                    yield asked

        for record in _answers(unanswered(), subject, num_at_once):
            keeper.keep(record)
            records[record.id] = record
            on_answer(record)
    summary = summarise(eval_set, records.values())
    if summary is None:
        errors = [record.error for record in records.values()]
        raise DataError(
            f"{eval_set.name}: {subject.name} answered none of {len(errors)} questions"
            + (f"; the first failed thus: {errors[0]}" if errors else "")
        )
    return summary


def _answers(questions: Iterator[Asked], subject: Subject, num_at_once: int) -> Iterator[Record]:
    """Yield outcomes as they come, with twice as many questions under way as are answered."""
    pool = ThreadPoolExecutor(num_at_once, thread_name_prefix="heddle-eval")
    pending: set[Future[Record]] = set()
    try:
        for asked in questions:
            pending.add(pool.submit(_outcome, asked, subject))
            if len(pending) == 2 * num_at_once:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _outcome(asked: Asked, subject: Subject) -> Record:
    try:
        return _answer(asked, subject)
    except RemoteError as error:
        if error.status == 0:  # nobody there: the next question would fare no better
            raise
        return _failed(asked, error)
    except HeddleError as error:
        return _failed(asked, error)


def _failed(asked: Asked, error: HeddleError) -> Record:
    log.info("event=failed question=%s error=%s", asked.id, type(error).__name__)
    return Record(id=asked.id, group=asked.group, error=str(error))


def _answer(asked: Asked, subject: Subject) -> Record:
    question = asked.question
    match question:
        case Generation():
            return _written(asked, question, subject)
        case Choices():
            pairs = question.pairs
        case Continuation():
            pairs = ((question.context, question.continuation),)
        case Passage():
            pairs = (("", question.text),)
    likelihoods = subject.scorer.score(pairs, think=subject.think)
    values = _values(question, likelihoods)
    logprobs = [likelihood.logprob for likelihood in likelihoods]
    computes = [likelihood.compute for likelihood in likelihoods]
    return _record(asked, values, computes, logprobs=logprobs)


def _values(
    question: Choices | Continuation | Passage, likelihoods: Sequence[Likelihood]
) -> Values:
    logprobs = [likelihood.logprob for likelihood in likelihoods]
    match question:
        case Choices():
            return _each_once(question.scores(logprobs))
        case Continuation():
            accuracy = float(likelihoods[0].is_greedy)
            return _each_once({"accuracy": accuracy, "perplexity": -logprobs[0]})
        case Passage():
            return {
                "word_perplexity": (-logprobs[0], question.num_words),
                "byte_perplexity": (-logprobs[0], question.num_bytes),
            }


def _written(asked: Asked, question: Generation, subject: Subject) -> Record:
    sampling: dict[str, Any] = {"temperature": 0, "max_tokens": question.max_tokens}
    if question.stop:
        sampling["stop"] = list(question.stop)
    if subject.think is not None:
        sampling["think"] = {"loops": subject.think}
    if isinstance(question.prompt, str):
        reply = subject.model.complete(question.prompt, **sampling)
    else:
        messages, tools = map(dict, question.prompt), map(dict, question.tools)
        reply = subject.model.chat(list(messages), tools=list(tools) or None, **sampling)
    calls = tuple(Call(call.name, call.arguments) for call in reply.tool_calls)
    scores = question.grade(Answer(reply.text, calls))
    compute = reply.usage.compute if reply.usage else None
    lines = [reply.text, *(f"{name} {arguments}" for name, arguments in calls)]
    return _record(asked, _each_once(scores), [compute], text="\n".join(filter(None, lines)))


def _each_once(scores: Scores) -> Values:
    return {metric: (score, 1.0) for metric, score in scores.items()}


def _record(
    asked: Asked, values: Values, computes: Sequence[Compute | None], **kept: Any
) -> Record:
    told = [compute for compute in computes if compute is not None]
    return Record(
        id=asked.id,
        group=asked.group,
        values=values,
        num_tokens=sum(sum(compute.loops.values()) for compute in told),
        num_loops=sum(loops * n for compute in told for loops, n in compute.loops.items()),
        flops=sum(compute.flops for compute in told),
        **kept,
    )
