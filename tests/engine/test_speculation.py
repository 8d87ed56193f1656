"""Guessing ahead changes how many steps an answer takes, and nothing about the answer."""

import json
import random
from itertools import pairwise

import llguidance
import pytest

from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.engine.request import Sampling, TokenEvent
from heddle.engine.speculation import PATIENCE, TRIAL_TOKENS, PromptLookup, Speculation
from heddle.kernels.cpu import available
from tests.engine.collect import Answer, ask
from tests.weights.gguf_files import TINY, write_gguf

BUILDS = available()
GREEDY = Sampling(temperature=0)
RECITER = list(range(40, 52))  # the tiny network repeats itself soon after this prompt


def flat(num_rows: int) -> float:
    return 1.0


def proportional(num_rows: int) -> float:
    return float(num_rows)


def dear(num_rows: int) -> float:
    return 1 + 0.1 * (num_rows - 1)


def repeating(length: int, *, seed: int) -> list[int]:
    generator = random.Random(seed)
    piece = [generator.randrange(3, 512) for _ in range(7)]
    return [generator.randrange(3, 512), *(piece * 20)][:length]


def always_guess(engine: Engine) -> Engine:
    """Let rows cost nothing, so that every draft is tried, however slow the machine is now."""
    engine._pace.cost = flat
    return engine


def events(answer: Answer) -> list[TokenEvent]:
    return [event for event in answer.wait().events if isinstance(event, TokenEvent)]


SAMPLINGS = [
    GREEDY,
    Sampling(temperature=0.8, seed=3),
    Sampling(temperature=1.0, top_p=0.7, top_k=9, min_p=0.01, seed=4),
    Sampling(temperature=0.3, seed=5, repetition_penalty=1.2, frequency_penalty=0.4),
    Sampling(temperature=0, presence_penalty=1.5, logit_bias={9: 2.0}, num_top_logprobs=3),
]


@pytest.mark.parametrize("company", [False, True], ids=["alone", "batched"])
def test_answers_are_the_same(engine_for, company):
    plain, guessing = engine_for(draft_tokens=0), always_guess(engine_for())
    asked = [
        (repeating(30 + 9 * place, seed=place), sampling)
        for place, sampling in enumerate(SAMPLINGS)
    ]
    expected = [events(ask(plain, prompt, 60, sampling=each)) for prompt, each in asked]
    answers = []
    for prompt, each in asked:
        answers.append(ask(guessing, prompt, 60, sampling=each))
        if not company:
            answers[-1].wait()
    for answer, should_be in zip(answers, expected, strict=True):
        got = events(answer)
        assert [event.token_id for event in got] == [event.token_id for event in should_be]
        for event, other in zip(got, should_be, strict=True):
            assert event.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [token for token, _ in event.top_logprobs] == [
                token for token, _ in other.top_logprobs
            ]
    assert 0 < guessing.stats().num_true_guesses < guessing.stats().num_guessed_tokens
    assert plain.stats().num_guessed_tokens == 0


def test_a_repeating_answer_takes_fewer_steps(engine_for):
    plain, guessing = engine_for(draft_tokens=0), always_guess(engine_for())
    answers = [ask(engine, RECITER, 300).wait() for engine in (plain, guessing)]
    assert answers[0].tokens == answers[1].tokens
    assert plain.stats().num_steps == 300
    assert guessing.stats().num_steps < 150
    num_steps, num_true = guessing.stats().num_steps, guessing.stats().num_true_guesses
    assert num_steps + num_true == 300


def test_work_on_wrong_guesses_is_billed(engine_for):
    plain, guessing = engine_for(draft_tokens=0), always_guess(engine_for())
    sampling = Sampling(temperature=1.2, seed=1)
    took = [
        ask(engine, repeating(60, seed=1), 40, sampling=sampling).finished.compute
        for engine in (plain, guessing)
    ]
    stats = guessing.stats()
    assert stats.num_guessed_tokens > stats.num_true_guesses
    assert took[0].loops == took[1].loops == {1: 99}
    num_wrong = stats.num_guessed_tokens - stats.num_true_guesses
    assert took[1].flops / took[0].flops == pytest.approx((99 + num_wrong) / 99, rel=0.05)
    assert took[0].active_params == took[1].active_params


@pytest.mark.skipif(not BUILDS, reason="no C++ compiler was there at installation")
def test_native_answers_are_the_same_to_the_bit(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", config=TINY, format="Q4_1")
    configs = (EngineConfig(threads=2, draft_tokens=number) for number in (0, 5))
    plain, guessing = (Engine.load(path, config) for config in configs)
    always_guess(guessing)
    for seed in range(4):
        sampling = Sampling(temperature=0.05 * seed, seed=1, num_top_logprobs=4)
        prompt = [token % TINY.vocab_size for token in repeating(40 + seed, seed=seed)]
        answers = [ask(engine, prompt, 80, sampling=sampling) for engine in (plain, guessing)]
        assert events(answers[0]) == events(answers[1])
    assert guessing.stats().num_true_guesses > 0
    for engine in (plain, guessing):
        engine.close()


@pytest.mark.parametrize("page_tokens", [1, 3, 16])
def test_pages_are_found_again_and_hold_no_wrong_guess(engine_for, page_tokens):
    engine = always_guess(engine_for(page_tokens=page_tokens))
    plain = engine_for(draft_tokens=0)
    prompt, sampling = repeating(50, seed=2), Sampling(temperature=0.9, seed=8)
    first = ask(engine, prompt, 40, sampling=sampling)
    longer = [*prompt, *first.tokens, 7, 8, 9]
    again = ask(engine, longer, 20)
    assert again.tokens == ask(plain, longer, 20).tokens
    num_computed = len(prompt) + 39
    assert again.finished.num_cached_tokens >= num_computed // page_tokens * page_tokens


def test_guesses_take_no_pages_from_others(engine_for):
    plain = engine_for(draft_tokens=0, cache_tokens=192, context_length=192)
    guessing = always_guess(engine_for(cache_tokens=192, context_length=192))
    asked = [repeating(20 + 5 * seed, seed=seed) for seed in range(6)]
    expected = [ask(plain, prompt, 60).tokens for prompt in asked]
    answers = [ask(guessing, prompt, 60) for prompt in asked]
    assert [answer.tokens for answer in answers] == expected
    assert guessing.stats().num_preempted > 0 and guessing.stats().num_true_guesses > 0


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 11, 12])
def test_an_answer_ends_where_it_should(engine_for, num_tokens):
    plain, guessing = engine_for(draft_tokens=0), always_guess(engine_for())
    tokens = ask(plain, RECITER, 60).tokens
    answer = ask(guessing, RECITER, num_tokens)
    assert answer.tokens == tokens[:num_tokens] and answer.finished.reason == "length"
    stop = tokens[-1]
    stopped = ask(guessing, RECITER, 60, stop_ids=frozenset([stop]))
    assert stopped.tokens == tokens[: tokens.index(stop)] and stopped.finished.reason == "stop"
    assert stopped.finished.num_new_tokens == tokens.index(stop) + 1


def test_a_schema_is_followed(engine_for):
    schema = {
        "type": "array",
        "items": {"const": "heddle"},
        "minItems": 8,
        "maxItems": 8,
        "x-guidance": {"whitespace_flexible": False},
    }
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    plain, guessing = engine_for(draft_tokens=0), always_guess(engine_for())
    fields = {"grammar": grammar, "stop_ids": frozenset([2]), "sampling": Sampling(seed=5)}
    answers = [ask(engine, RECITER, 200, **fields).wait() for engine in (plain, guessing)]
    assert answers[0].tokens == answers[1].tokens
    assert answers[1].finished.reason == "stop"
    assert guessing.stats().num_true_guesses > 0


def test_a_scored_prompt_is_gone_on_with(engine_for):
    plain, guessing = engine_for(draft_tokens=0), always_guess(engine_for())
    prompt = repeating(70, seed=3)
    fields = {"num_prompt_logprobs": 1, "prompt_logprobs_from": 3}
    scored = [ask(engine, prompt, 30, **fields).wait() for engine in (plain, guessing)]
    assert scored[0].tokens == scored[1].tokens
    assert scored[0].events[0].logprobs == pytest.approx(scored[1].events[0].logprobs, abs=1e-4)


@pytest.mark.parametrize("kind", ["loops", "experts", "memory"])
def test_adaptive_networks_do_not_guess(engine_for, kind):
    engine = always_guess(engine_for(kind))
    ask(engine, repeating(60, seed=0), 30).wait()
    assert engine.stats().num_guessed_tokens == 0


def test_guessing_stops_where_it_costs_more_than_it_brings(engine_for):
    engine = engine_for()
    engine._pace.cost = proportional
    answer = ask(engine, repeating(60, seed=1), 60, sampling=Sampling(temperature=2.0, seed=1))
    assert len(answer.tokens) == 60
    assert engine.stats().num_guessed_tokens <= TRIAL_TOKENS * 60 // PATIENCE


def test_lookup_repeats_what_followed_last_time():
    lookup = PromptLookup()
    assert lookup([1, 2, 3], 4) == [] and lookup([1, 2], 4) == []
    assert lookup([1, 2, 3, 4, 5, 1, 2, 3], 2) == [4, 5]
    assert lookup([1, 2, 3, 4, 5, 1, 2, 3, 9, 1, 2, 3], 3) == [9, 1, 2]
    repeated = PromptLookup()([5, 6, 7, 5, 6, 7, 5], 8)
    assert repeated == [6, 7, 5, 6, 7, 5, 6, 7]
    assert PromptLookup()([4] * 5, 3) == [4, 4, 4]


def test_lookup_reads_growing_tokens_as_it_would_all_at_once():
    generator = random.Random(0)
    tokens = [generator.randrange(4) for _ in range(200)]
    lookup = PromptLookup()
    for end in range(1, len(tokens)):
        assert lookup(tokens[:end], 5) == PromptLookup()(tokens[:end], 5)


def draft(speculation: Speculation, cost=flat, *, most: int = 4, num_rows: int = 1) -> int:
    tokens = [1, 2, 3] * 4
    guesses = speculation.draft(tokens, cost, num_rows=num_rows, num_expected=num_rows, most=most)
    return len(guesses)


def test_a_draft_is_as_long_as_it_pays():
    costs = [lambda rows, c=c: 1 + c * (rows - 1) for c in (0, 0.05, 0.1, 0.3, 0.6)]
    lengths = [draft(Speculation(PromptLookup()), cost, most=8) for cost in costs]
    assert lengths[0] == 8 and lengths[-1] == 0
    assert all(longer >= shorter for longer, shorter in pairwise(lengths))


def test_drafts_that_failed_are_given_up_and_tried_again_later():
    speculation = Speculation(PromptLookup())
    assert draft(speculation, dear) > 0
    for _ in range(6):
        speculation.note(4, 0)
    assert [draft(speculation, dear) for _ in range(PATIENCE)] == [0] * PATIENCE
    assert draft(speculation, dear) == TRIAL_TOKENS
    for _ in range(10):
        speculation.note(TRIAL_TOKENS, TRIAL_TOKENS)
    assert speculation.odds > 0.8 and draft(speculation, dear) == 4
