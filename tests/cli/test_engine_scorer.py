"""Likelihoods from an engine in this process are those of the network."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from heddle.cli.engine_scorer import EngineScorer
from heddle.client.http import HttpModel
from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.errors import ContextLengthError, EngineError, RequestError
from heddle.model.batch import pack
from heddle.text.tokenizer import Tokenizer
from tests.adaptive import save_adaptive
from tests.tiny import tiny_config, tiny_engine, tiny_model, tiny_tokenizer

TOKENIZER = Tokenizer(tiny_tokenizer().to_str())
CONTEXT = "The loom holds the warp; the heddle lifts it; the shuttle"
PAIRS = [(CONTEXT, " carries the weft."), (f"{CONTEXT} ", "sinks."), ("How much is 17", " + 25?")]
START = 2  # the tiny model has no token that begins a text, so the one that ends it stands in


def plain(ids: list[int], first: int) -> tuple[float, bool]:
    with torch.inference_mode():
        logprobs_TV = tiny_model(tiny_config())(pack([ids])).logits_NV.log_softmax(-1)
    told = [logprobs_TV[place - 1][ids[place]] for place in range(first, len(ids))]
    best = [logprobs_TV[place - 1].max() for place in range(first, len(ids))]
    return float(sum(told)), told == best


@pytest.fixture
def scorer(engine):
    return EngineScorer(engine)


def test_pairs(scorer):
    for (context, continuation), found in zip(PAIRS, scorer.score(PAIRS), strict=True):
        num_context = len(TOKENIZER.encode(context.rstrip()))
        ids = TOKENIZER.encode(context + continuation)
        assert found.logprob == pytest.approx(plain(ids, num_context)[0], abs=1e-3)
        assert found.num_tokens == len(ids) - num_context
        assert found.is_greedy == plain(ids, num_context)[1]
        assert found.compute.flops > 0


def test_the_likeliest_text_is_greedy(engine, scorer):
    ids = TOKENIZER.encode(CONTEXT)
    with torch.inference_mode():
        logits_V = tiny_model(tiny_config())(pack([ids])).logits_NV[-1]
    likely = [TOKENIZER.token_text(int(token)) for token in logits_V.argsort(descending=True)[:40]]
    texts = [text for text in likely if text.startswith(" ")]
    found = scorer.score([(CONTEXT, text) for text in texts])
    best = TOKENIZER.token_text(int(logits_V.argmax()))
    assert [each.is_greedy for each in found] == [text == best for text in texts]


def test_a_text_after_nothing_is_read_in_windows(tmp_path):
    engine = tiny_engine(tmp_path, context_length=64)
    text = " ".join([CONTEXT] * 8)
    ids = TOKENIZER.encode(text)
    [found] = EngineScorer(engine).score([("", text)])
    assert found.num_tokens == len(ids) > 64
    assert found.logprob < plain([START, *ids], 1)[0] + len(ids)
    with pytest.raises(ContextLengthError):
        EngineScorer(engine).score([(text, " end")])
    engine.close()


def test_a_short_text_after_nothing(scorer):
    ids = TOKENIZER.encode(CONTEXT)
    [found] = scorer.score([("", CONTEXT)])
    assert found.logprob == pytest.approx(plain([START, *ids], 1)[0], abs=1e-3)


def test_many_threads(scorer):
    pairs = [(f"{CONTEXT} {number}", " carries the weft.") for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = [found for [found] in pool.map(lambda pair: scorer.score([pair]), pairs)]
    alone = scorer.score(pairs)
    for one, other in zip(together, alone, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_loops(tmp_path):
    engine = Engine.load(save_adaptive(tmp_path / "model"), EngineConfig(threads=1))
    scorer = EngineScorer(engine)
    [once], [thrice] = (scorer.score(PAIRS[:1], think=think) for think in (None, 3))
    assert set(once.compute.loops) == {1} and set(thrice.compute.loops) == {3}
    assert once.logprob != thrice.logprob
    [auto] = scorer.score(PAIRS[:1], think="auto")
    assert auto.compute.mean_loops > 1 and len(auto.compute.loops) > 1
    with pytest.raises(RequestError, match="at most 20"):
        scorer.score(PAIRS, think=21)
    engine.close()


def test_a_closed_engine_is_an_error(engine, scorer):
    engine.close()
    with pytest.raises(EngineError):
        scorer.score(PAIRS)


def test_a_server_says_the_same(scorer, server_url):
    with HttpModel(server_url) as model:
        for ours, told in zip(scorer.score(PAIRS), model.score(PAIRS), strict=True):
            assert math.isclose(ours.logprob, told.logprob, abs_tol=1e-3)
            assert (ours.num_tokens, ours.is_greedy) == (told.num_tokens, told.is_greedy)
