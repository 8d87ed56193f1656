"""How many requests may be under way, and how often."""

import httpx
import pytest

from heddle.errors import ConfigError
from heddle.server.limits import MAX_CALLERS, Limits
from heddle.server.settings import ServerSettings
from tests.server.conftest import chat_body
from tests.server.events import wait_for_idle


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


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
    body = chat_body(max_tokens=None, ignore_eos=True, stream=True, n=8)
    with (
        httpx.Client(base_url=limited.url) as other,
        other.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        refused = limited.chat()
        assert refused.status_code == status and "retry-after" in refused.headers
        assert limited.http.get("/health").status_code == 200
    wait_for_idle(served_engine)
    assert limited.chat().status_code == 200


@pytest.mark.parametrize(
    "setting",
    [{"port": -1}, {"port": 70000}, {"max_open": 0}, {"read_timeout_s": 0},
     {"requests_per_minute": -1}, {"allowed_origins": ("*",)}],
)  # fmt: skip
def test_settings_are_checked(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        ServerSettings(**setting)
