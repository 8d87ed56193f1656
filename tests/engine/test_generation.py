"""Greedy tokens are the plain forward's: batched, chunked, shared, interrupted or alone."""

import random

import torch

from heddle.engine.engine import Engine
from heddle.model.batch import pack
from heddle.model.memory import WholeSequences
from tests.engine.collect import ask
from tests.tiny import tiny_config, tiny_model


def prompts(count: int, *, low: int = 3, high: int = 120, seed: int = 0) -> list[list[int]]:
    generator = random.Random(seed)
    return [
        [generator.randrange(3, 512) for _ in range(generator.randrange(low, high))]
        for _ in range(count)
    ]


@torch.inference_mode()
def plain_greedy(prompt: list[int], num_tokens: int) -> list[int]:
    """Continue by running the whole sequence through the network for each token."""
    model = tiny_model(tiny_config())
    tokens = list(prompt)
    for _ in range(num_tokens):
        packed = pack([tokens])
        out = model(packed, WholeSequences(packed.bounds_S1))
        tokens.append(int(out.logits_NV[-1].argmax()))
    return tokens[len(prompt) :]


EXPECTED = {tuple(prompt): plain_greedy(prompt, 16) for prompt in prompts(10)}


def assert_all_as_expected(engine: Engine) -> None:
    answers = {prompt: ask(engine, list(prompt)) for prompt in EXPECTED}
    for prompt, tokens in EXPECTED.items():
        assert answers[prompt].tokens == tokens


def test_alone(engine_for):
    engine = engine_for()
    for prompt, tokens in EXPECTED.items():
        assert ask(engine, list(prompt)).tokens == tokens


def test_batched(engine_for):
    assert_all_as_expected(engine_for())


def test_chunked(engine_for):
    engine = engine_for(step_tokens=20, shared_step_tokens=18)
    assert_all_as_expected(engine)
    assert engine.stats().num_steps > 40


def test_after_prefix_hits(engine_for):
    engine = engine_for()
    assert_all_as_expected(engine)
    again = {prompt: ask(engine, list(prompt)) for prompt in EXPECTED}
    for prompt, tokens in EXPECTED.items():
        assert again[prompt].tokens == tokens
        whole_pages = (len(prompt) + len(tokens) - 1) // 16 * 16  # the answer's are found, too
        assert again[prompt].finished.num_cached_tokens == min(len(prompt) - 1, whole_pages)


def test_after_preemption(engine_for):
    engine = engine_for(cache_tokens=192)
    assert_all_as_expected(engine)
    assert engine.stats().num_preempted > 0


def test_equal_prompts_compute_their_prefix_once(engine_for):
    engine = engine_for()
    prompt = list(max(EXPECTED, key=len))
    answers = [ask(engine, prompt) for _ in range(4)]
    assert [answer.tokens for answer in answers] == [EXPECTED[tuple(prompt)]] * 4
    cached = sorted(answer.finished.num_cached_tokens for answer in answers)
    assert cached == [0] + [(len(prompt) - 1) // 16 * 16] * 3


def test_a_conversation_reuses_its_own_answer(engine_for):
    engine = engine_for()
    prompt = prompts(1, low=60, high=61)[0]
    first = ask(engine, prompt, 40)
    longer = [*prompt, *first.tokens, 7, 8, 9]
    second = ask(engine, longer, 8)
    assert second.finished.num_cached_tokens >= len(prompt) + 32
    assert second.tokens == plain_greedy(longer, 8)


def test_what_begins_as_a_page_does_goes_on_alone(engine_for):
    """The page is copied, and what stands in it stays."""
    engine = engine_for()
    prompt = prompts(1, low=70, high=71)[0]
    assert ask(engine, prompt, 20).tokens == plain_greedy(prompt, 20)
    other = [*prompt[:69], (prompt[69] + 1) % 512, 7, 8]
    for again in (other, prompt, other):
        answer = ask(engine, again, 20)
        assert answer.tokens == plain_greedy(again, 20)
        assert answer.finished.num_cached_tokens >= 69
    assert answer.finished.num_cached_tokens == len(other) - 1  # its own page is found by then


def test_random_arrivals_and_cancels_leave_no_page_behind(engine_for):
    engine = engine_for(cache_tokens=512, max_running=6)
    generator = random.Random(3)
    answers = []
    for prompt in prompts(40, seed=4):
        answers.append(ask(engine, prompt, generator.randrange(1, 24)))
        if generator.random() < 0.3:
            victim = generator.choice(answers)
            engine.cancel(victim.request.request_id)
    for answer in answers:
        expected_length = answer.request.max_new_tokens
        if answer.finished.reason == "length":
            assert len(answer.tokens) == expected_length
        else:
            assert answer.finished.reason == "cancelled"
            assert len(answer.tokens) <= expected_length
    assert engine.drain(5)
    assert engine.stats().num_used_pages == 0
