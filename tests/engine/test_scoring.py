"""Log-probabilities of prompts are the plain forward's, however the prompts are computed."""

import random

import pytest
import torch

from heddle.engine.engine import Engine
from heddle.engine.request import PromptScored, Thinking
from heddle.errors import RequestError
from heddle.model.batch import pack
from tests.engine.collect import ask
from tests.engine.conftest import MODELS

CONTEXT = list(range(5, 75))


def score(engine: Engine, tokens: list[int], first: int, **fields):
    return ask(engine, tokens, 0, num_prompt_logprobs=1, prompt_logprobs_from=first, **fields)


def assert_is_the_plain_forwards(kind: str, answer, *, loops: int = 1) -> None:
    tokens, first = list(answer.request.prompt), answer.request.prompt_logprobs_from
    scored = answer.wait().events[0]
    assert isinstance(scored, PromptScored)
    with torch.inference_mode():
        logprobs_TV = MODELS[kind](pack([tokens], loops=loops)).logits_NV.log_softmax(-1)
    places = torch.arange(first - 1, len(tokens) - 1)
    expected = logprobs_TV[places, torch.tensor(tokens[first:], dtype=torch.long)]
    assert list(scored.logprobs) == pytest.approx(expected.tolist(), abs=2e-4)
    best = logprobs_TV[places].max(-1).values
    assert [top[0][1] for top in scored.top_logprobs] == pytest.approx(best.tolist(), abs=2e-4)


def endings(count: int) -> list[list[int]]:
    generator = random.Random(0)
    return [[generator.randrange(3, 512) for _ in range(3 + n % 7)] for n in range(count)]


@pytest.mark.parametrize("kind", ["dense", "experts", "memory"])
@pytest.mark.parametrize("step_tokens", [512, 40])
def test_choices_share_their_context(engine_for, kind, step_tokens):
    engine = engine_for(kind, step_tokens=step_tokens, shared_step_tokens=18)
    answers = [score(engine, CONTEXT + ending, len(CONTEXT)) for ending in endings(6)]
    for answer in answers:
        assert_is_the_plain_forwards(kind, answer)
        assert len(answer.events[0].logprobs) == len(answer.request.prompt) - len(CONTEXT)
    most = len(CONTEXT) // engine._cache.page_tokens * engine._cache.page_tokens
    assert [answer.finished.num_cached_tokens for answer in answers] == [0] + [most] * 5


def test_looping_choices_share_their_context(engine_for):
    engine = engine_for("experts")
    deep = Thinking(max_loops=3)
    for ending in endings(3):
        answer = score(engine, CONTEXT + ending, len(CONTEXT), thinking=deep).wait()
        assert_is_the_plain_forwards("experts", answer, loops=3)
    assert answer.finished.num_cached_tokens > 0


def test_no_scored_token_is_taken_from_the_cache(engine_for):
    engine = engine_for()
    score(engine, CONTEXT, 1).wait()
    for first in (1, 16, 17, 33, len(CONTEXT)):
        answer = score(engine, CONTEXT, first)
        assert_is_the_plain_forwards("dense", answer)
        assert answer.finished.num_cached_tokens == min(first - 1, 64)


def test_after_preemption(engine_for):
    engine = engine_for(cache_tokens=160, context_length=160, max_running=4, shared_step_s=1e-6)
    writers = [ask(engine, list(range(start, start + 30)), 60) for start in (100, 200)]
    for writer in writers:
        writer.next()
    assert_is_the_plain_forwards("dense", score(engine, CONTEXT, 2))
    assert engine.stats().num_preempted > 0
    for writer in writers:
        writer.wait()


def test_a_scored_prompt_is_gone_on_with(engine_for):
    engine = engine_for()
    plain = ask(engine, CONTEXT, 5).tokens
    answer = ask(engine, CONTEXT, 5, num_prompt_logprobs=0, prompt_logprobs_from=60)
    assert answer.tokens == plain
    assert len(answer.events[0].logprobs) == len(CONTEXT) - 60


@pytest.mark.parametrize("first", [0, -1, 71])
def test_a_place_outside_the_prompt_is_refused(engine_for, first):
    with pytest.raises(RequestError, match="between 1 and 70"):
        score(engine_for(), CONTEXT, first)
