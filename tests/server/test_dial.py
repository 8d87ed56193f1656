"""From a request's fields to loops and steering: meanings, bounds, sentences of refusals."""

import math

import pytest

from heddle.engine.request import Thinking
from heddle.errors import ConfigError, RequestError
from heddle.server.dial import ANYTHING, EFFORT_LOOPS, MAX_STEER, Bounds, Dials
from heddle.server.wire import CompletionRequest

CLUSTERS = ("factual", "spatial", "symbolic", "creative", "safety")
LOOPED = Dials(model_id="looped", max_loops=32, clusters=CLUSTERS, default=1)
SHALLOW = Dials(model_id="shallow", max_loops=4, clusters=CLUSTERS, default="auto")
DENSE = Dials(model_id="dense", max_loops=1, clusters=(), default=1)


def read(dials: Dials, *, bounds: Bounds = ANYTHING, **fields):
    return dials.read(CompletionRequest.model_validate({"prompt": "x", **fields}), bounds)


def thinking(dials: Dials = LOOPED, **fields) -> Thinking:
    return read(dials, **fields).thinking


def steer(**fields) -> dict[str, float]:
    return dict(zip(CLUSTERS, read(LOOPED, **fields).steer, strict=True))


def at_most(loops: int) -> Thinking:
    return Thinking(max_loops=loops, is_automatic=True)


def test_effort_bounds_and_think_is_exact():
    assert list(EFFORT_LOOPS.values()) == [1, 2, 3, 4, 8, 16, 32]
    for effort, loops in EFFORT_LOOPS.items():
        expected = at_most(loops) if loops > 1 else Thinking()
        assert thinking(reasoning_effort=effort) == expected
    assert thinking(think={"loops": 7}) == Thinking(max_loops=7)
    assert thinking(think={"loops": "auto"}) == at_most(32)


def test_the_default_is_the_servers_within_the_keys_bound():
    assert thinking() == Thinking()
    assert thinking(SHALLOW) == at_most(4)
    assert thinking(SHALLOW, bounds=Bounds(max_loops=2)) == at_most(2)
    eager = Dials(model_id="eager", max_loops=32, clusters=CLUSTERS, default=8)
    assert thinking(eager) == Thinking(max_loops=8)
    assert thinking(eager, bounds=Bounds(max_loops=3)) == Thinking(max_loops=3)
    with pytest.raises(ConfigError, match="think cannot be 5: shallow passes at most 4 loops"):
        Dials(model_id="shallow", max_loops=4, clusters=(), default=5)


def test_an_effort_is_met_as_far_as_the_model_goes():
    assert thinking(SHALLOW, reasoning_effort="max") == at_most(4)
    with pytest.raises(RequestError, match="shallow passes at most 4 loops, not 5"):
        thinking(SHALLOW, think={"loops": 5})
    with pytest.raises(RequestError, match="looped passes at most 32 loops, not 33"):
        thinking(think={"loops": 33})


def test_think_and_effort_may_say_the_same():
    assert thinking(reasoning_effort="none", think={"loops": 1}) == Thinking()
    assert thinking(reasoning_effort="max", think={"loops": "auto"}) == at_most(32)
    with pytest.raises(RequestError, match="different depths") as caught:
        thinking(reasoning_effort="medium", think={"loops": 4})
    assert caught.value.parameter == "think"


def test_a_dense_model_takes_what_changes_nothing_and_says_why_not_else():
    harmless = {"think": {"loops": 1}, "reasoning_effort": "none", "alignment": 0.0, "steer": {}}
    assert read(DENSE, **harmless) == (Thinking(), None)
    assert thinking(DENSE, think={"loops": "auto"}) == Thinking()
    for fields, code in (
        ({"think": {"loops": 2}}, "no_think_dial"),
        ({"reasoning_effort": "minimal"}, "no_think_dial"),
        ({"alignment": 0.1}, "no_clusters"),
        ({"steer": {"factual": 0.0}}, "no_clusters"),
    ):
        with pytest.raises(RequestError, match="dense model") as caught:
            read(DENSE, **fields)
        assert caught.value.code == code


def test_alignment_is_a_straight_line():
    assert steer(alignment=-1) == dict.fromkeys(CLUSTERS, 0) | {
        "factual": 2, "creative": -2, "safety": 2,
    }  # fmt: skip
    assert steer(alignment=0.5) == dict.fromkeys(CLUSTERS, 0) | {
        "factual": -1, "creative": 1, "safety": 1,
    }  # fmt: skip
    assert steer(alignment=0.5, steer={"creative": 2, "spatial": -4})["creative"] == 3
    assert read(LOOPED, alignment=0).steer is None


def share(values: dict[str, float], prior: dict[str, float]) -> float:
    """Return safety's share of a softmax whose weights were `prior`."""
    masses = {name: prior[name] * math.exp(value) for name, value in values.items()}
    return masses["safety"] / sum(masses.values())


@pytest.mark.parametrize(
    "fields",
    [
        {"alignment": 1},
        {"alignment": -1},
        {"steer": dict.fromkeys(CLUSTERS[:4], MAX_STEER)},
        {"steer": dict.fromkeys(CLUSTERS[:4], -MAX_STEER)},
        {"steer": {"symbolic": 3, "safety": 1}, "alignment": 0.7},
    ],
)
def test_no_request_lowers_the_share_of_safety(fields):
    for safety in (0.01, 0.2, 0.9):
        prior = dict.fromkeys(CLUSTERS[:4], (1 - safety) / 4) | {"safety": safety}
        assert share(steer(**fields), prior) >= safety - 1e-12


@pytest.mark.parametrize(
    ("given", "parameter", "words"),
    [
        ({"safety": -0.1}, "steer.safety", "no request can lower safety"),
        ({"creativ": 1}, "steer.creativ", "did you mean 'creative'"),
        ({"factual": 4.5}, "steer", "beyond the bound of 4"),
        ({"factual": -5}, "steer", "beyond the bound of 4"),
    ],
)
def test_steering_has_bounds(given, parameter, words):
    with pytest.raises(RequestError, match=words) as caught:
        steer(steer=given)
    assert (caught.value.parameter, caught.value.code) == (parameter, "invalid_value")


def test_steer_and_alignment_share_one_bound():
    with pytest.raises(RequestError, match="creative would be steered by 5"):
        steer(steer={"creative": 3}, alignment=1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"think": {"loops": 5}}, "5 loops are more than this key's bound of 4"),
        ({"reasoning_effort": "high"}, "8 loops are more than this key's bound of 4"),
        ({"alignment": 1}, "beyond this key's bound of 1"),
        ({"steer": {"spatial": -2}}, "spatial would be steered by -2"),
    ],
)
def test_a_key_may_have_narrower_bounds(fields, words):
    narrow = Bounds(max_loops=4, steer=1)
    with pytest.raises(RequestError, match=words) as caught:
        read(LOOPED, bounds=narrow, **fields)
    assert caught.value.code == "beyond_key_bound"
    assert thinking(bounds=narrow, think={"loops": "auto"}) == at_most(4)
    assert thinking(bounds=narrow, reasoning_effort="medium") == at_most(4)
    assert thinking(SHALLOW, bounds=narrow, reasoning_effort="max") == at_most(4)


def test_bounds_that_make_no_sense():
    for fields in ({"max_loops": 0}, {"steer": -1}, {"steer": 4.1}, {"steer": math.nan}):
        with pytest.raises(ConfigError):
            Bounds(**fields)


def test_the_card_says_what_the_caller_may_turn():
    assert LOOPED.card(ANYTHING) == {
        "think": {"max_loops": 32, "default": 1},
        "clusters": list(CLUSTERS),
        "steer_bound": 4,
        "max_alignment": 1,
    }
    narrow = LOOPED.card(Bounds(max_loops=1, steer=0.5))
    assert narrow["think"] is None and narrow["max_alignment"] == 0.25
    dense = {"think": None, "clusters": [], "steer_bound": 0, "max_alignment": 0}
    assert DENSE.card(ANYTHING) == dense
