"""Adaptive greedy decoding is the plain forward's, whatever the depth, the steering, the batch."""

import random

import pytest
import torch

from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.engine.request import Thinking, TokenEvent
from heddle.errors import RequestError
from heddle.model.batch import Depth, pack
from tests.engine.collect import ask
from tests.engine.conftest import MODELS
from tests.model.test_adaptive import THINK
from tests.tiny import save_tiny

ADAPTIVE = ("loops", "experts", "memory", "pages", "index")
DEEP, AUTO = Thinking(max_loops=3), Thinking(max_loops=4, is_automatic=True)
STEER = (0.0, 2.0, -1.0, 0.5, 0.0)


def prompt(length: int, *, seed: int = 0) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(3, 512) for _ in range(length)]


@torch.inference_mode()
def whole(kind: str, tokens: list[int], thinking: Thinking, steer=None):
    """Run a whole sequence through the network."""
    depth = Depth(
        torch.full((len(tokens),), thinking.max_loops),
        torch.full((len(tokens),), thinking.is_automatic),
    )
    steer_TG = None if steer is None else torch.tensor(steer).expand(len(tokens), 5)
    return MODELS[kind](pack([tokens])._replace(depth=depth, steer_TG=steer_TG))


def assert_follows(kind: str, answer, thinking: Thinking, steer=None) -> None:
    """Every token is one of the plain forward's best, but for rounding, and so are its loops."""
    tokens = [*answer.request.prompt, *answer.tokens]
    out = whole(kind, tokens[:-1], thinking, steer)
    events = [event for event in answer.events if isinstance(event, TokenEvent)]
    for place, event in enumerate(events, start=len(answer.request.prompt) - 1):
        logits = out.logits_NV[place]
        assert logits.max() - logits[event.token_id] < 1e-3, place
        assert event.loops == out.trace.loops_T[place]
        if MODELS[kind].config.fabric:
            assert event.clusters == pytest.approx(out.trace.cluster_TG[place].tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", ADAPTIVE)
@pytest.mark.parametrize("thinking", [Thinking(), DEEP, AUTO])
def test_cached_is_uncached(engine_for, kind, thinking):
    engine = engine_for(kind)
    for length in (1, 7, 8, 9, 50):
        answer = ask(engine, prompt(length, seed=length), 20, thinking=thinking)
        assert_follows(kind, answer, thinking)


@pytest.mark.parametrize("kind", ["experts", "memory", "pages", "index"])
def test_chunks_prefixes_and_preemption_change_nothing(engine_for, kind):
    engine = engine_for(kind, cache_tokens=160, step_tokens=11, shared_step_tokens=7, max_running=6)
    shared = prompt(40)
    answers = [
        (thinking, ask(engine, [*shared, *prompt(1 + number, seed=number)], 24, thinking=thinking))
        for number, thinking in enumerate([Thinking(), DEEP, DEEP, AUTO, Thinking(), DEEP])
    ]
    for thinking, answer in answers:
        assert_follows(kind, answer, thinking)
    assert engine.stats().num_preempted > 0
    again = ask(engine, [*shared, 5, 6], 4, thinking=DEEP)
    assert_follows(kind, again, DEEP)
    assert again.finished.num_cached_tokens == 40


def test_depths_and_steering_do_not_share_pages(engine_for):
    engine = engine_for("memory")
    tokens = prompt(30)
    for fields in ({}, {"thinking": DEEP}, {"steer": STEER}, {"thinking": DEEP, "steer": STEER}):
        answer = ask(engine, tokens, 8, **fields)
        assert answer.finished.num_cached_tokens == 0
        assert_follows("memory", answer, fields.get("thinking", Thinking()), fields.get("steer"))
        assert ask(engine, tokens, 8, **fields).finished.num_cached_tokens == 24


def test_what_an_answer_took_is_added_up(engine_for):
    engine = engine_for("experts")
    plain, deep = (ask(engine, prompt(20), 5, thinking=t).finished for t in (Thinking(), DEEP))
    auto = ask(engine, prompt(20), 5, thinking=AUTO)
    assert plain.compute.loops == {1: 24} and deep.compute.loops == {3: 24}
    assert sum(auto.finished.compute.loops.values()) == 24
    assert len(auto.finished.compute.loops) > 1
    for took in (plain.compute, deep.compute):
        assert sum(took.clusters) == pytest.approx(1, abs=1e-4)
    block = THINK.num_layers / MODELS["experts"].config.num_layers
    assert 1 + block < deep.compute.flops / plain.compute.flops < 1 + 4 * block
    assert plain.compute.active_params < deep.compute.active_params
    assert deep.compute.active_params < sum(p.numel() for p in MODELS["experts"].parameters())


def test_a_narrower_choice_of_experts_costs_less(engine_for):
    engine = engine_for("experts")
    usual = ask(engine, prompt(20), 5).finished.compute
    safe = ask(engine, prompt(20), 5, steer=(0, 0, 0, 0, 9.0)).finished.compute
    assert safe.flops < usual.flops and safe.active_params < usual.active_params


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("experts", {"thinking": Thinking(max_loops=33)}, "loops must be at most 32 with"),
        ("experts", {"thinking": Thinking(max_loops=0)}, "loops must be at least 1, not 0"),
        ("experts", {"steer": (1.0,)}, "has 5 clusters to steer between, not 1"),
        ("loops", {"steer": STEER}, "has 0 clusters to steer between, not 5"),
    ],
)
def test_a_dial_beyond_the_model_is_refused(engine_for, kind, fields, message):
    with pytest.raises(RequestError, match=message):
        ask(engine_for(kind), [5], **fields)


def test_a_dense_model_says_that_it_has_no_dial(tmp_path):
    engine = Engine.load(save_tiny(tmp_path / "dense"), EngineConfig(threads=1))
    try:
        assert engine.max_loops == 1 and engine.clusters == ()
        with pytest.raises(RequestError, match="has no thinking block to loop"):
            ask(engine, [5], thinking=DEEP)
        took = ask(engine, prompt(10), 3).finished.compute
        assert took.loops == {1: 12} and took.clusters == ()
        assert took.flops > 2 * 12 * took.active_params
    finally:
        engine.close()
