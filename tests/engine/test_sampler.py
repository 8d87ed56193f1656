"""The sampler's distributions, one rule at a time."""

from collections import Counter

import pytest
import torch

from heddle.engine.request import Sampling
from heddle.engine.sampler import Sampler

LOGITS = torch.tensor([0.0, 1.0, 2.0, 3.0, -50.0])


def drawn(sampling: Sampling, *, logits=LOGITS, prompt=(0,), count: int = 4000) -> Counter[int]:
    sampler = Sampler(sampling, prompt=prompt)
    return Counter(sampler.draw(logits, None).token_id for _ in range(count))


def shares(counter: Counter[int], size: int = 5) -> list[float]:
    return [counter[i] / counter.total() for i in range(size)]


def test_plain_draws_follow_the_softmax():
    assert shares(drawn(Sampling(seed=1))) == pytest.approx(LOGITS.softmax(0).tolist(), abs=0.03)


def test_temperature_sharpens():
    expected = (LOGITS / 0.5).softmax(0).tolist()
    assert shares(drawn(Sampling(seed=1, temperature=0.5))) == pytest.approx(expected, abs=0.03)


def test_greedy_takes_the_largest():
    assert drawn(Sampling(temperature=0), count=5) == {3: 5}


def test_top_k_keeps_k_tokens_in_proportion():
    expected = LOGITS[2:4].softmax(0)
    got = shares(drawn(Sampling(seed=1, top_k=2)))
    assert got == pytest.approx([0, 0, float(expected[0]), float(expected[1]), 0], abs=0.03)


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    # probabilities: .032 .087 .237 .644 — .644 alone is less than .7, with .237 more
    assert set(drawn(Sampling(seed=1, top_p=0.7))) == {2, 3}
    assert set(drawn(Sampling(seed=1, top_p=0.6))) == {3}
    assert set(drawn(Sampling(seed=1, top_p=0.0))) == {3}


def test_min_p_is_relative_to_the_most_probable():
    # relative to the best: .050 .135 .368 1
    assert set(drawn(Sampling(seed=1, min_p=0.2))) == {2, 3}
    assert set(drawn(Sampling(seed=1, min_p=0.1))) == {1, 2, 3}


def test_bias_forbids_and_forces():
    assert 3 not in drawn(Sampling(seed=1, logit_bias={3: -100}))
    assert set(drawn(Sampling(seed=1, logit_bias={4: 100}))) == {4}


def test_presence_penalty_counts_once_and_frequency_each_time():
    flat = torch.zeros(3)
    sampler = Sampler(Sampling(temperature=0, presence_penalty=1.0), prompt=(1,))
    assert [sampler.draw(flat, None).token_id for _ in range(4)] == [0, 1, 2, 0]
    steep = torch.tensor([1.5, 0.0])
    sampler = Sampler(Sampling(temperature=0, frequency_penalty=1.0), prompt=(0, 0, 0))
    assert [sampler.draw(steep, None).token_id for _ in range(4)] == [0, 0, 1, 0]


def test_repetition_penalty_counts_the_prompt_too():
    logits = torch.tensor([2.0, 1.5, -1.0])
    assert Sampler(Sampling(temperature=0), prompt=(0,)).draw(logits, None).token_id == 0
    penalised = Sampler(Sampling(temperature=0, repetition_penalty=2.0), prompt=(0,))
    assert [penalised.draw(logits, None).token_id for _ in range(2)] == [1, 0]


def test_reported_logprobs_are_the_models_own():
    sampler = Sampler(
        Sampling(seed=1, temperature=3.0, num_top_logprobs=2, logit_bias={4: 100}), prompt=(0,)
    )
    event = sampler.draw(LOGITS, None)
    expected = LOGITS.log_softmax(0)
    assert event.logprob == pytest.approx(float(expected[event.token_id]))
    assert [token for token, _ in event.top_logprobs] == [3, 2]


def test_unseeded_samplers_differ():
    flat = torch.zeros(10_000)
    first, second = (Sampler(Sampling(), prompt=(0,)) for _ in range(2))
    assert [first.draw(flat, None).token_id for _ in range(4)] != [
        second.draw(flat, None).token_id for _ in range(4)
    ]
