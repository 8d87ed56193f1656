"""The dials of a tiny adaptive model over HTTP: what is asked, what is spent, what is told."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from heddle.engine.config import EngineConfig
from heddle.engine.engine import Engine
from heddle.errors import ConfigError
from heddle.server.app import build_app
from heddle.server.dial import Bounds
from heddle.server.keys import KeyStore
from heddle.server.settings import ServerSettings
from tests.adaptive import MAX_LOOPS, save_adaptive
from tests.server.conftest import Api
from tests.server.events import chunks_of
from tests.server.live import live_server
from tests.server.test_operations import samples

CLUSTERS = ["factual", "spatial", "symbolic", "creative", "safety"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Iterator[Engine]:
    folder = save_adaptive(tmp_path_factory.mktemp("adaptive") / "model")
    engine = Engine.load(folder, EngineConfig(threads=1))
    yield engine
    engine.close()


@pytest.fixture
def start(engine, tmp_path) -> Iterator[Callable[..., Api]]:
    """A function that starts a server on the adaptive engine."""
    with ExitStack() as stack:

        def serve(*, key: str = "none", **settings) -> Api:
            url = stack.enter_context(live_server(engine, tmp_path, **settings))
            headers = {"authorization": f"Bearer {key}"}
            client = httpx.Client(base_url=url, headers=headers, timeout=30)
            return Api(stack.enter_context(client))

        yield serve


@pytest.fixture
def api(start) -> Api:
    return start()


def ask(api: Api, max_tokens: int = 12, **fields) -> dict:
    response = api.chat(model=None, max_tokens=max_tokens, **fields)
    assert response.status_code == 200, response.text
    return response.json()


def compute(reply: dict) -> dict:
    return reply["usage"]["compute"]


def test_deeper_answers_cost_more_and_say_so(api):
    costs = []
    for fields in ({}, {"think": {"loops": 2}}, {"think": {"loops": MAX_LOOPS}}):
        reply = ask(api, **fields)
        spent = compute(reply)
        loops = fields.get("think", {"loops": 1})["loops"]
        # the last token is drawn and not computed
        num_tokens = reply["usage"]["total_tokens"] - 1
        num_tokens -= reply["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert spent["mean_loops"] == loops and spent["loops"] == {str(loops): num_tokens}
        assert list(spent["clusters"]) == CLUSTERS
        assert sum(spent["clusters"].values()) == pytest.approx(1, abs=1e-3)
        assert 0 < spent["active_params"] < 511_000
        costs.append(spent["flops"] / num_tokens)
    assert costs == sorted(costs) and costs[2] > 5 * costs[0]
    assert spent["flops"] == pytest.approx(spent["deepest_flops"], rel=0.05)


def test_effort_is_a_bound_under_which_tokens_decide(api):
    loops = compute(ask(api, reasoning_effort="low"))["loops"]
    assert set(loops) <= {"1", "2", "3"} and len(loops) > 1
    deep = compute(ask(api, 60, think={"loops": "auto"}))["loops"]
    assert max(map(int, deep)) > 3


def test_steering_changes_the_answer(api):
    plain, steered = (
        ask(api, text="Tell me of looms and of warps", **fields)["choices"][0]["message"]["content"]
        for fields in ({}, {"steer": {"symbolic": 4}})
    )
    assert plain != steered


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_routing_tells_of_each_token_and_streams_the_same(api, path):
    body = {
        "max_tokens": 12, "temperature": 0, "n": 2, "seed": 3,
        "think": {"loops": "auto"}, "include": ["routing"],
    }  # fmt: skip
    asks = {"messages": [{"role": "user", "content": "Hello"}]} if "chat" in path else {}
    body |= asks or {"prompt": "Hello", "echo": True, "logprobs": 1}
    whole = api.http.post(f"/v1/{path}", json=body).json()
    stream = body | {"stream": True, "stream_options": {"include_usage": True}}
    chunks = chunks_of(api.http.post(f"/v1/{path}", json=stream))
    for index, choice in enumerate(whole["choices"]):
        told = choice["routing"]
        text = choice["message"]["content"] if "chat" in path else choice["text"][len("Hello") :]
        joined = "".join(entry["token"] for entry in told)
        assert text in (joined, f"{joined}\N{REPLACEMENT CHARACTER}") and len(told) == 12
        assert all(list(entry["clusters"]) == CLUSTERS for entry in told)
        pieces = [each for chunk in chunks for each in chunk["choices"] if each["index"] == index]
        assert [entry for piece in pieces for entry in piece["routing"]] == told
    assert len({entry["loops"] for entry in told}) > 1
    assert chunks[-1]["usage"]["compute"]["flops"] > 0


def test_without_include_there_is_no_routing(api):
    assert "routing" not in ask(api)["choices"][0]


def test_the_models_card_has_the_dials(api):
    (card,) = api.http.get("/v1/models").json()["data"]
    assert card["think"] == {"max_loops": MAX_LOOPS, "default": 1}
    assert card["clusters"] == CLUSTERS


def test_the_server_may_think_by_default(start, engine):
    api = start(think="auto")
    assert compute(ask(api))["mean_loops"] > 1
    assert compute(ask(api, reasoning_effort="none"))["mean_loops"] == 1
    with pytest.raises(ConfigError, match=f"adaptive passes at most {MAX_LOOPS} loops"):
        build_app(engine, ServerSettings(think=MAX_LOOPS + 1))


def test_a_key_holds_its_bearer_to_its_bounds(start, tmp_path):
    key = KeyStore(tmp_path / "keys.sqlite").create("intern", Bounds(max_loops=2, steer=1))
    api = start(key=key, require_keys=True, think="auto")
    assert set(compute(ask(api))["loops"]) == {"1", "2"}
    for fields in ({"think": {"loops": 3}}, {"reasoning_effort": "low"}, {"alignment": 0.6}):
        refused = api.chat(model=None, **fields)
        assert refused.status_code == 403
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("permission_error", "beyond_key_bound")
        assert "this key's bound" in error["message"]
    assert ask(api, alignment=0.5, think={"loops": 2})
    (card,) = api.http.get("/v1/models").json()["data"]
    assert card["think"]["max_loops"] == 2 and card["max_alignment"] == 0.5


def test_not_a_number_cannot_steer(api):
    body = b'{"messages": [{"role": "user", "content": "x"}], "steer": {"factual": NaN}}'
    headers = {"content-type": "application/json"}
    refused = api.http.post("/v1/chat/completions", content=body, headers=headers)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "steer.factual"


def test_loops_and_arithmetic_are_counted(api):
    before = samples(api)
    spent = compute(ask(api, text="Count my loops", think={"loops": 3}))
    after = samples(api)
    loops, flops = (
        after[name,] - before[name,]
        for name in ("heddle_engine_loops_total", "heddle_engine_flops_total")
    )
    assert loops == 3 * spent["loops"]["3"]
    assert flops == pytest.approx(spent["flops"])
