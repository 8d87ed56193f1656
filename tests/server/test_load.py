"""Clients that leave, dawdle or come in crowds: others are served, and nothing is left behind."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from functools import partial

import httpx
import pytest

from tests.server.conftest import chat_body
from tests.server.events import wait_for_idle
from tests.server.live import live_server, wait_until

LONG = {"max_tokens": None, "ignore_eos": True, "temperature": 1}


def connect(url: str, *, receive_buffer: int | None = None) -> socket.socket:
    address = httpx.URL(url)
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(10)
    connection.connect((address.host, address.port))
    return connection


def raw_request(body: dict) -> bytes:
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def read_to_the_end(connection: socket.socket) -> bytes:
    """Return all that the server sent before it closed or reset the connection."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            received += piece
    return bytes(received)


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_cancels(url, served_engine, stream):
    before = served_engine.stats().num_new_tokens
    with connect(url) as connection:
        connection.sendall(raw_request(chat_body(**LONG, stream=stream)))
        wait_until(lambda: served_engine.stats().num_running > 0)
    wait_for_idle(served_engine)
    assert served_engine.stats().num_new_tokens - before < served_engine.context_length // 2


def test_leaving_during_the_upload_does_no_harm(url, api):
    with connect(url) as connection:
        connection.sendall(raw_request(chat_body("x" * 100_000))[:5000])
    assert api.chat().status_code == 200


@pytest.mark.anyio
async def test_storm_of_clients_that_leave(url, served_engine):
    """Forty clients leave at forty moments, from before the prompt is read on."""

    async def leave_after(seconds: float, http: httpx.AsyncClient) -> None:
        body = chat_body(f"number {seconds}", **LONG, n=2, stream=seconds * 100 % 2 < 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                response = await http.post("/v1/chat/completions", json=body)
                await response.aread()

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as http:
        await asyncio.gather(*(leave_after(0.01 + 0.013 * number, http) for number in range(40)))
    await asyncio.to_thread(wait_for_idle, served_engine)


@pytest.mark.anyio
async def test_200_connections_at_once(url, served_engine):
    async def ask() -> tuple[int, str]:
        response = await http.post("/v1/chat/completions", json=chat_body("Hi", max_tokens=2))
        if response.status_code == 503:
            assert int(response.headers["retry-after"]) >= 1
            return 503, ""
        return response.status_code, response.json()["choices"][0]["message"]["content"]

    async def slowest_health() -> float:
        slowest = 0.0
        for _ in range(10):
            start = time.perf_counter()
            assert (await watcher.get("/health")).status_code == 200
            slowest = max(slowest, time.perf_counter() - start)
        return slowest

    limits = httpx.Limits(max_connections=200, max_keepalive_connections=0)
    async with (
        httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http,
        httpx.AsyncClient(base_url=url, timeout=60) as watcher,
    ):
        asked = [ask() for _ in range(200)]
        *answers, slowest = await asyncio.gather(*asked, slowest_health())
    statuses = [status for status, _ in answers]
    assert set(statuses) <= {200, 503} and statuses.count(200) >= 100
    assert len({text for status, text in answers if status == 200}) == 1
    assert slowest < 5
    await asyncio.to_thread(wait_for_idle, served_engine)


def test_reader_of_one_byte_a_second_holds_nobody_up(url, api, served_engine):
    with connect(url, receive_buffer=2048) as slow:
        slow.sendall(raw_request(chat_body(**LONG, stream=True, logprobs=True, top_logprobs=20)))
        for _ in range(3):
            assert slow.recv(1)
            start = time.perf_counter()
            assert api.chat().status_code == 200
            assert time.perf_counter() - start < 5
            time.sleep(0.3)
    wait_for_idle(served_engine)


def test_client_that_stops_reading_is_cut_off(serve, served_engine):
    api = serve(write_timeout_s=0.5)
    body = chat_body(**LONG, n=8, stream=True, logprobs=True, top_logprobs=20)
    with connect(api.url, receive_buffer=2048) as stuck:
        stuck.sendall(raw_request(body))
        wait_until(lambda: served_engine.stats().num_running > 0)
        wait_for_idle(served_engine)
        assert not read_to_the_end(stuck).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost:", raw_request(chat_body())[:-3]])
def test_request_that_never_ends_is_dropped(serve, sent):
    api = serve(read_timeout_s=0.3)
    with connect(api.url) as connection:
        connection.sendall(sent)
        start = time.perf_counter()
        assert read_to_the_end(connection) == b""
        assert 0.2 < time.perf_counter() - start < 5
    assert api.chat().status_code == 200


def test_slow_connection_may_be_used_again(serve):
    api = serve(read_timeout_s=0.3)
    for _ in range(2):
        assert api.chat(max_tokens=64).status_code == 200
        time.sleep(0.5)


def test_endless_head_is_cut_off(url):
    with connect(url) as connection, pytest.raises(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(1000):
            connection.sendall(b"x-more: " + b"x" * 4000 + b"\r\n")
        connection.recv(1)


def test_others_are_served_while_a_large_prompt_is_read(url, api):
    slowest = 0.0
    body = chat_body("word " * 300_000)
    request = partial(httpx.post, f"{url}/v1/chat/completions", json=body, timeout=60)
    asking = threading.Thread(target=request)
    asking.start()
    while asking.is_alive():
        start = time.perf_counter()
        assert api.http.get("/health").status_code == 200
        slowest = max(slowest, time.perf_counter() - start)
    asking.join()
    assert slowest < 1


def test_silent_stream_sends_comments(serve, served_engine):
    api = serve(heartbeat_s=0.02)
    response = api.chat("x " * 400, stream=True, max_tokens=3, temperature=1)
    assert response.status_code == 200
    assert ": still here\n\n" in response.text


def test_stopping_server_cancels_what_outlasts_the_drain(served_engine, tmp_path):
    with live_server(served_engine, tmp_path, drain_timeout_s=0) as url, connect(url) as client:
        client.sendall(raw_request(chat_body(**LONG, n=8, stream=True)))
        assert client.recv(12) == b"HTTP/1.1 200"
    wait_for_idle(served_engine)
