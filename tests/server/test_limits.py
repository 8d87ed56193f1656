"""How many requests may be under way, and how often."""

from contextlib import contextmanager

import httpx
import pytest

from heddle.errors import ConfigError, QuotaError, RequestError
from heddle.server.dial import Bounds
from heddle.server.keys import KeyStore
from heddle.server.limits import MAX_CALLERS, Limits
from heddle.server.settings import ServerSettings
from tests.server.conftest import chat_body
from tests.server.events import wait_for_idle

NUM_CHOICES = 8  # so that they take a while


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def answering(api):
    """Keep answers under way, each of which may take all of a context."""
    body = chat_body(max_tokens=None, ignore_eos=True, stream=True, n=NUM_CHOICES)
    with (
        httpx.Client(base_url=api.url, headers=api.http.headers) as other,
        other.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        yield


def test_bucket_refills_with_time():
    clock = Clock()
    limits = Limits(max_open=100, requests_per_minute=2, clock=clock)
    assert limits.enter("ada") is None and limits.enter("ada") is None
    failure = limits.enter("ada")
    assert failure.status == 429 and failure.retry_after_s == pytest.approx(30)
    assert limits.enter("bob") is None
    clock.now = 31
    assert limits.enter("ada") is None
    assert limits.enter("ada") is not None


def test_callers_are_forgotten_not_gathered():
    limits = Limits(max_open=10**6, requests_per_minute=5)
    for number in range(MAX_CALLERS + 10):
        limits.enter(str(number))
        limits.leave(str(number))
    assert len(limits._buckets) == MAX_CALLERS and not limits._open


def test_too_often_is_429_with_retry_after(serve):
    api = serve(requests_per_minute=3)
    statuses = [api.chat(max_tokens=1).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    refused = api.chat()
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert api.http.get("/v1/models").status_code == 200


@pytest.mark.parametrize(("setting", "status"), [("max_open", 503), ("max_open_per_caller", 429)])
def test_too_many_at_once(serve, served_engine, setting, status):
    limited = serve(**{setting: 1})
    with answering(limited):
        refused = limited.chat()
        assert refused.status_code == status and "retry-after" in refused.headers
        assert limited.http.get("/health").status_code == 200
    wait_for_idle(served_engine)
    assert limited.chat().status_code == 200


def test_open_tokens_are_counted_for_each_caller():
    limits = Limits(max_open=10, max_open_tokens_per_caller=100)
    limits.take_tokens("ada", 60)
    limits.take_tokens("bob", 100)
    with pytest.raises(QuotaError, match="60 of your tokens are under way .* have 41, 100 being"):
        limits.take_tokens("ada", 41)
    limits.take_tokens("ada", 40)
    limits.give_back_tokens("ada", 60)
    limits.take_tokens("ada", 60)
    with pytest.raises(RequestError, match="may have 101 tokens, but at most 100"):
        limits.take_tokens("cleo", 101)
    for caller, num_tokens in (("ada", 60), ("ada", 40), ("bob", 100)):
        limits.give_back_tokens(caller, num_tokens)
    assert not limits._open_tokens


def test_a_callers_own_limit_goes_before_the_servers():
    limits = Limits(max_open=10, max_open_tokens_per_caller=100)
    limits.take_tokens("more", 150, most=200)
    with pytest.raises(QuotaError):
        limits.take_tokens("more", 51, most=200)
    with pytest.raises(RequestError):
        limits.take_tokens("less", 51, most=50)
    limits.take_tokens("any", 10**6, most=0)


def assert_is_over_quota(response: httpx.Response) -> None:
    assert response.status_code == 429 and int(response.headers["retry-after"]) >= 1
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "too_many_open_tokens")
    assert "of your tokens are under way" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_too_many_open_tokens_are_429_until_they_end(serve, served_engine, stream):
    limited = serve(max_open_tokens_per_caller=NUM_CHOICES * served_engine.context_length + 40)
    with answering(limited):
        assert_is_over_quota(limited.chat(max_tokens=60, stream=stream))
        assert_is_over_quota(limited.chat("x" * 200, max_tokens=1))
        embed = {"input": "x" * 200}
        assert_is_over_quota(limited.http.post("/v1/embeddings", json=embed))
        assert limited.complete("x", max_tokens=2).status_code == 200
    wait_for_idle(served_engine)
    assert limited.chat(max_tokens=60).status_code == 200


def test_a_request_that_can_never_start_says_what_to_change(serve):
    limited = serve(max_open_tokens_per_caller=50)
    error = limited.error(max_tokens=200)
    assert error["code"] == "too_many_tokens" and error["param"] == "max_tokens"
    assert limited.error(max_tokens=20, n=4)["code"] == "too_many_tokens"
    assert limited.error(max_tokens=None)["code"] == "too_many_tokens"
    assert limited.chat(max_tokens=2).status_code == 200


def test_each_key_has_its_own_limit(serve, served_engine, tmp_path):
    store = KeyStore(tmp_path / "keys.sqlite")
    few = store.create("few", Bounds(max_open_tokens=40))
    default = store.create("default")
    api = serve(
        require_keys=True,
        max_open_tokens_per_caller=NUM_CHOICES * served_engine.context_length + 40,
    )
    api.http.headers["authorization"] = f"Bearer {few}"
    assert api.error(max_tokens=60)["code"] == "too_many_tokens"
    api.http.headers["authorization"] = f"Bearer {default}"
    with answering(api):
        assert_is_over_quota(api.chat(max_tokens=60))
        tenants = {running.request.tenant for running in served_engine._live.values()}
        assert tenants == {store.check(default).id}
        api.http.headers["authorization"] = f"Bearer {few}"
        assert api.chat(max_tokens=2).status_code == 200
    wait_for_idle(served_engine)


@pytest.mark.parametrize(
    "setting",
    [{"port": -1}, {"port": 70000}, {"max_open": 0}, {"read_timeout_s": 0},
     {"requests_per_minute": -1}, {"max_open_tokens_per_caller": -1}, {"allowed_origins": ("*",)}],
)  # fmt: skip
def test_settings_are_checked(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        ServerSettings(**setting)
