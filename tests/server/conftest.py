"""One tiny model behind one server for most tests; those that change settings start their own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from heddle.engine.engine import Engine
from tests.server.live import live_server
from tests.tiny import tiny_engine


@pytest.fixture(scope="session")
def served_engine(tmp_path_factory) -> Iterator[Engine]:
    engine = tiny_engine(tmp_path_factory.mktemp("served") / "tiny")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def url(served_engine, tmp_path_factory) -> Iterator[str]:
    with live_server(served_engine, tmp_path_factory.mktemp("data")) as url:
        yield url


@pytest.fixture(scope="session")
def api(url) -> Iterator["Api"]:
    with httpx.Client(base_url=url, timeout=30) as http:
        yield Api(http)


@pytest.fixture
def serve(served_engine, tmp_path) -> Iterator[Callable[..., "Api"]]:
    """A function that starts another server on the same engine, with other settings."""
    with ExitStack() as stack:

        def start(**settings) -> Api:
            url = stack.enter_context(live_server(served_engine, tmp_path, **settings))
            return Api(stack.enter_context(httpx.Client(base_url=url, timeout=30)))

        yield start


class Api:
    """Short ways to ask a server."""

    def __init__(self, http: httpx.Client):
        self.http = http
        self.url = str(http.base_url)

    def chat(self, text: str = "Hello", **fields) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=chat_body(text, **fields))

    def complete(self, prompt, **fields) -> httpx.Response:
        body = {"model": "tiny", "prompt": prompt, "temperature": 0, **fields}
        return self.http.post("/v1/completions", json=body)

    def error(self, **fields) -> dict:
        """Return the error object of a chat request that must be refused with 400."""
        response = self.chat(**fields)
        assert response.status_code == 400, response.text
        return response.json()["error"]


def chat_body(text: str = "Hello", **fields) -> dict:
    messages = [{"role": "user", "content": text}]
    return {"model": "tiny", "messages": messages, "max_tokens": 8, "temperature": 0} | fields
