"""Server-sent events as a client reads them."""

import json

import httpx

from tests.server.live import wait_until


def chunks_of(response: httpx.Response) -> list[dict]:
    """Return a finished stream's chunks; it must end with [DONE]."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    frames = [frame for frame in response.text.split("\n\n") if frame.startswith("data: ")]
    assert frames.pop() == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def wait_for_idle(engine) -> None:
    """Wait until the engine holds no request and no page; fail if it keeps one."""
    wait_until(lambda: engine.stats().num_running + engine.stats().num_waiting == 0)
    wait_until(lambda: engine.stats().num_used_pages == 0)
