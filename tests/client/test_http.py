import select
import threading
import time

import pytest

from heddle.client.http import HttpModel
from heddle.client.model import (
    Compute,
    Delta,
    Reply,
    Timings,
    ToolCall,
    ToolCallDelta,
    Usage,
    join,
    tool_result,
)
from heddle.errors import ConfigError, RemoteError, RequestError

MESSAGES = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
    "compute": {
        "mean_loops": 2.5,
        "loops": {"1": 2, "4": 2},
        "clusters": {"factual": 0.75, "creative": 0.25},
        "active_params": 100,
        "flops": 5000,
        "deepest_flops": 9000,
    },
}
COMPUTE = Compute(
    mean_loops=2.5,
    loops={1: 2, 4: 2},
    clusters={"factual": 0.75, "creative": 0.25},
    active_params=100,
    flops=5000,
    deepest_flops=9000,
)
TIMINGS = {
    "queue_ms": 1,
    "prefill_ms": 20,
    "decode_ms": 300,
    "time_to_first_token_ms": 25,
    "tokens_per_second": 10.0,
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
COMPLETION = {
    "choices": [
        {
            "message": {
                "role": "assistant",
                "content": "Hello",
                "reasoning": "Hm",
                "reasoning_content": "Hm",
                "tool_calls": [CALL],
            },
            "finish_reason": "tool_calls",
        }
    ],
    "usage": USAGE,
    "timings": TIMINGS,
}
REPLY = Reply(
    text="Hello",
    reasoning="Hm",
    tool_calls=(ToolCall(id="call_1", name="f", arguments='{"x": 1}'),),
    finish_reason="tool_calls",
    usage=Usage(
        num_prompt_tokens=7,
        num_new_tokens=3,
        num_cached_tokens=4,
        num_reasoning_tokens=2,
        compute=COMPUTE,
    ),
    timings=Timings(
        queue_s=0.001, prefill_s=0.02, decode_s=0.3, first_token_s=0.025, tokens_per_s=10.0
    ),
)


def chunk(finish_reason=None, **delta):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


CHUNKS = [
    chunk(role="assistant", content=""),
    chunk(reasoning_content="Hm"),
    chunk(content="Hel"),
    chunk(content="lo"),
    chunk(tool_calls=[{"index": 0, **CALL, "function": {"name": "f", "arguments": ""}}]),
    chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"x"'}}]),
    chunk(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
    chunk(finish_reason="tool_calls"),
    {"choices": [], "usage": USAGE, "timings": TIMINGS},
]


@pytest.fixture
def model(server):
    with HttpModel(server.url, "m", timeout_s=5, max_retries=2) as model:
        yield model


def stream_all(exchange):
    exchange.begin_stream()
    for each in CHUNKS:
        exchange.send_chunk(each)
    exchange.wfile.write(b"data: [DONE]\n\n")


def test_chat(server, model):
    server.answer = lambda exchange: exchange.send_json(COMPLETION)
    reply = model.chat(MESSAGES, tools=[TOOL], response_format={"type": "text"}, temperature=0)
    assert reply == REPLY
    (exchange,) = server.exchanges
    assert exchange.path == "/v1/chat/completions"
    assert exchange.body == {
        "model": "m",
        "messages": MESSAGES,
        "tools": [TOOL],
        "response_format": {"type": "text"},
        "temperature": 0,
    }


def test_stream_brings_what_chat_brings(server, model):
    server.answer = stream_all
    deltas = list(model.stream(MESSAGES))
    assert deltas[2:4] == [Delta(text="Hel"), Delta(text="lo")]
    assert deltas[4].tool_calls == (ToolCallDelta(index=0, id="call_1", name="f"),)
    assert join(deltas) == REPLY
    assert server.bodies[0]["stream"] is True
    assert server.bodies[0]["stream_options"] == {"include_usage": True}


def test_a_bare_answer_is_enough(server, model):
    server.answer = lambda exchange: exchange.send_json({"choices": [{"message": {}}]})
    assert model.chat(MESSAGES) == Reply()


def test_a_reply_goes_back_as_a_message():
    assert REPLY.as_message() == {"role": "assistant", "content": "Hello", "tool_calls": [CALL]}
    assert Reply(text="Hi").as_message() == {"role": "assistant", "content": "Hi"}
    result = tool_result(REPLY.tool_calls[0], "42")
    assert result == {"role": "tool", "tool_call_id": "call_1", "content": "42"}


def test_one_answer_only(model):
    with pytest.raises(RequestError, match="one answer"):
        model.chat(MESSAGES, n=2)


def test_the_first_model_is_the_default(server):
    server.answer = lambda exchange: exchange.send_json({"data": [{"id": "a"}, {"id": "b"}]})
    with HttpModel(f"{server.url}/v1/") as model:
        assert model.models() == ["a", "b"]
        assert model.name == model.name == "a"
    assert [exchange.path for exchange in server.exchanges] == ["/v1/models"] * 2


def test_a_server_without_models_is_named(server):
    server.answer = lambda exchange: exchange.send_json({"data": []})
    with HttpModel(server.url) as model, pytest.raises(RemoteError, match="no model"):
        _ = model.name


def test_the_key_is_sent(server, monkeypatch):
    server.answer = lambda exchange: exchange.send_json({"data": []})
    monkeypatch.setenv("HEDDLE_API_KEY", "from-environment")
    for given in ("from-argument", None):
        with HttpModel(server.url, api_key=given) as model:
            model.models()
    sent = [exchange.headers["authorization"] for exchange in server.exchanges]
    assert sent == ["Bearer from-argument", "Bearer from-environment"]


def test_no_proxy_leads_to_loopback(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.answer = lambda exchange: exchange.send_json({"data": []})
    with HttpModel(server.url) as model:
        assert model.models() == []


def test_embeddings_keep_the_order_of_texts(server, model):
    data = [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]
    server.answer = lambda exchange: exchange.send_json({"data": data})
    assert model.embed(["a", "b"]) == [[1.0], [2.0]]
    assert server.bodies[0]["input"] == ["a", "b"]


@pytest.mark.parametrize(
    ("prompt", "continuation", "expected"),
    [
        ("The sky is", " blue", (-0.5, 1, True, None)),
        ("The sky is ", "blue", (-0.5, 1, True, None)),  # spaces belong to what follows
        ("The sky", " is blue", (-2.5, 2, False, None)),
        ("The sky i", "s blue", (-2.5, 2, False, None)),  # the token across the seam counts
        ("", "The sky is blue", (-5.5, 3, False, None)),  # nothing comes before "The"
    ],
)
def test_score(server, model, prompt, continuation, expected):
    choice = {
        "text": "<s>The sky is blue",
        "logprobs": {
            "tokens": ["<s>The", " sky", " is", " blue"],
            "text_offset": [0, 6, 10, 13],
            "token_logprobs": [None, -3.0, -2.0, -0.5],
            "top_logprobs": [None, {" sky": -3.0, " sea": -1.0}, {" was": -0.1, " is": -2.0},
                             {" blue": -0.5}],
        },
    }  # fmt: skip
    server.answer = lambda exchange: exchange.send_json({"choices": [choice]})
    assert model.score([(prompt, continuation)]) == [expected]
    (body,) = server.bodies
    assert body["prompt"] == prompt + continuation
    assert (body["echo"], body["max_tokens"], body["logprobs"]) == (True, 0, 1)


def test_scores_of_several_pairs_come_with_what_they_took(server, model):
    compute = {
        "mean_loops": 2.0, "loops": {"2": 3}, "clusters": {}, "active_params": 10,
        "flops": 60, "deepest_flops": 90,
    }  # fmt: skip
    answer = {
        "choices": [{
            "text": "a b",
            "logprobs": {
                "text_offset": [0, 1],
                "token_logprobs": [None, -1.0],
                "top_logprobs": [None, {" b": -1.0}],
            },
        }],
        "usage": {"prompt_tokens": 2, "completion_tokens": 0, "compute": compute},
    }  # fmt: skip
    server.answer = lambda exchange: exchange.send_json(answer)
    first, second = model.score([("a", " b"), ("a", " b")], think=2)
    assert first == second
    assert first.compute.loops == {2: 3} and first.compute.flops == 60
    assert [body["think"] for body in server.bodies] == [{"loops": 2}] * 2


def test_plain_text_is_gone_on_with(server, model):
    choice = {"text": " blue", "finish_reason": "length"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    server.answer = lambda exchange: exchange.send_json({"choices": [choice], "usage": usage})
    reply = model.complete("The sky is", max_tokens=1, temperature=0)
    assert (reply.text, reply.finish_reason, reply.usage.num_new_tokens) == (" blue", "length", 1)
    (body,) = server.bodies
    assert (body["prompt"], body["max_tokens"], body["temperature"]) == ("The sky is", 1, 0)
    assert server.exchanges[0].path == "/v1/completions"


def test_a_character_in_pieces_at_the_seam_counts_whole(server, model):
    choice = {
        "text": "a☃",
        "logprobs": {
            "text_offset": [0, 1, 1, 1],
            "token_logprobs": [None, -1.0, -2.0, -4.0],
            "top_logprobs": [None, {"x": -1.0}, {"x": -2.0}, {"x": -4.0}],
        },
    }
    server.answer = lambda exchange: exchange.send_json({"choices": [choice]})
    assert model.score([("a", "☃")]) == [(-7.0, 3, True, None)]


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({"error": {"message": "bad role", "code": "invalid_value"}}, "bad role", "invalid_value"),
        ({"error": {"message": "bad", "type": "invalid_request_error"}}, "bad",
         "invalid_request_error"),
        ({"error": "plain"}, "plain", None),
        ({"detail": "Not Found"}, "Not Found", None),
        ("<html>gateway</html>", "gateway", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streams", [False, True])
def test_errors_say_what_the_server_said(server, model, body, message, code, streams):
    server.answer = lambda exchange: exchange.send_json(body, status=400)
    with pytest.raises(RemoteError, match=message) as caught:
        list(model.stream(MESSAGES)) if streams else model.chat(MESSAGES)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert len(server.exchanges) == 1


@pytest.mark.parametrize("body", ["not json", [], {}, {"choices": []}, {"choices": [{}]}])
def test_an_answer_in_another_shape_is_an_error(server, model, body):
    server.answer = lambda exchange: exchange.send_json(body)
    with pytest.raises(RemoteError, match="shape"):
        model.chat(MESSAGES)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(server, model, status):
    def answer(exchange):
        if len(server.exchanges) == 1:
            exchange.send_json({"error": {"message": "busy"}}, status=status, retry_after="0.3")
        else:
            exchange.send_json(COMPLETION)

    server.answer = answer
    start = time.monotonic()
    assert model.chat(MESSAGES) == REPLY
    assert time.monotonic() - start >= 0.3


def test_a_server_that_stays_busy_is_given_up(server, model):
    busy = {"error": {"message": "busy"}}
    server.answer = lambda exchange: exchange.send_json(busy, status=503, retry_after="0")
    with pytest.raises(RemoteError, match="busy") as caught:
        list(model.stream(MESSAGES))
    assert caught.value.status == 503
    assert len(server.exchanges) == 3


def test_nobody_waits_for_an_hour(server, model):
    server.answer = lambda exchange: exchange.send_json({}, status=429, retry_after="3600")
    with pytest.raises(RemoteError) as caught:
        model.chat(MESSAGES)
    assert caught.value.status == 429
    assert len(server.exchanges) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_other_errors_are_not_tried_again(server, model, status):
    server.answer = lambda exchange: exchange.send_json({}, status=status)
    with pytest.raises(RemoteError):
        model.chat(MESSAGES)
    assert len(server.exchanges) == 1


def test_a_connection_lost_before_the_answer_is_tried_again(server, model):
    def answer(exchange):
        if len(server.exchanges) > 1:
            exchange.send_json(COMPLETION)

    server.answer = answer
    assert model.chat(MESSAGES) == REPLY
    assert len(server.exchanges) == 2


def test_a_server_that_is_away_is_named(server):
    url = server.url
    server.server_close()
    with (
        HttpModel(url, "m", max_retries=0) as model,
        pytest.raises(RemoteError, match="is the server running") as caught,
    ):
        model.chat(MESSAGES)
    assert (caught.value.status, caught.value.code) == (0, "unreachable")
    assert url in str(caught.value)


def test_an_address_without_scheme_is_refused():
    with pytest.raises(ConfigError, match="localhost:8000"):
        HttpModel("localhost:8000")


@pytest.mark.parametrize(
    ("last", "message", "status"),
    [
        (None, "broke off", 0),
        ({"error": {"message": "out of pages", "code": "engine_error"}}, "out of pages", 200),
        ("garbage", "shape", 200),
    ],
)
def test_a_broken_stream_is_an_error_after_its_deltas(server, model, last, message, status):
    def answer(exchange):
        exchange.begin_stream()
        exchange.send_chunk(chunk(content="Hel"))
        if last:
            exchange.send_chunk(last)

    server.answer = answer
    deltas = model.stream(MESSAGES)
    assert next(deltas) == Delta(text="Hel")
    with pytest.raises(RemoteError, match=message) as caught:
        next(deltas)
    assert caught.value.status == status
    assert len(server.exchanges) == 1


def test_deltas_come_as_they_are_sent(server, model):
    goes_on = threading.Event()

    def answer(exchange):
        exchange.begin_stream()
        for word in ("a", "b"):
            exchange.send_chunk(chunk(content=word))
            assert goes_on.wait(5)
        exchange.wfile.write(b": still here\n\ndata: [DONE]\n\n")

    server.answer = answer
    deltas = model.stream(MESSAGES)
    assert next(deltas) == Delta(text="a")
    goes_on.set()
    assert list(deltas) == [Delta(text="b")]


@pytest.mark.parametrize("begins", [True, False])
def test_a_silent_server_times_out(server, begins):
    leaves = threading.Event()

    def answer(exchange):
        if begins:
            exchange.begin_stream()
        leaves.wait(5)

    server.answer = answer
    with (
        HttpModel(server.url, "m", timeout_s=0.2) as model,
        pytest.raises(RemoteError, match="in time") as caught,
    ):
        list(model.stream(MESSAGES))
    leaves.set()
    assert caught.value.code == "timeout"
    assert len(server.exchanges) == 1


def test_to_stop_reading_closes_the_connection(server, model):
    has_left = threading.Event()

    def answer(exchange):
        exchange.begin_stream()
        exchange.send_chunk(chunk(content="one"))
        if select.select([exchange.connection], [], [], 5)[0]:
            assert exchange.connection.recv(1) == b""
            has_left.set()

    server.answer = answer
    for delta in model.stream(MESSAGES):
        assert delta.text == "one"
        assert not has_left.is_set()
        break
    assert has_left.wait(5)
