"""What a client can get wrong, and the sentence it gets back."""

import json
import socket

import httpx
import pytest

from tests.server.conftest import chat_body

MESSAGES = [{"role": "user", "content": "Hello"}]
BAD_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "number-ish"}}}
BAD_PARAMETERS = {"type": "object", "properties": {"x": {"type": "no"}}}
BAD_TOOL = {"type": "function", "function": {"name": "f", "parameters": BAD_PARAMETERS}}
IMAGE = [{"role": "user", "content": [{"type": "image_url"}]}]
BAD_NAME = [{"type": "function", "function": {"name": "a b"}}]

# (fields, the parameter that is named, words of the message)
REFUSED = [
    ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
    ({"zzz": 1}, "zzz", "no such field"),
    ({"temperature": "hot"}, "temperature", "number"),
    ({"temperature": -1}, "temperature", "greater"),
    ({"top_p": 2}, "top_p", "less"),
    ({"max_tokens": -5}, "max_tokens", "greater"),
    ({"max_tokens": 0}, "max_tokens", "at least 1"),
    ({"max_tokens": 1.5}, "max_tokens", "integer"),
    ({"max_tokens": "8"}, "max_tokens", "integer"),
    ({"n": 0}, "n", "greater"),
    ({"n": 10**6}, "n", "16"),
    ({"seed": 10**30}, "seed", "less"),
    ({"top_logprobs": 3}, "top_logprobs", "logprobs"),
    ({"logprobs": True, "top_logprobs": 99}, "top_logprobs", "less"),
    ({"logit_bias": {"99999": 1}}, "logit_bias", "token id"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "token id"),
    ({"stop": 5}, "stop", "string"),
    ({"stop": ["a"] * 17}, "stop", "at most 16"),
    ({"stop": ["a", 5]}, "stop.1", "string"),
    ({"stop": ""}, "stop", "at least 1"),
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": "Hello"}, "messages", "list"),
    ({"messages": [{"role": "king", "content": "Hello"}]}, "messages.0.role", "'user'"),
    ({"messages": [{"role": "user"}]}, "messages.0.content", "content"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id", "tool_call_id"),
    ({"messages": IMAGE}, "messages.0.content.0.type", "'text'"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "json_object"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "json_schema"),
    ({"response_format": BAD_SCHEMA}, "response_format.json_schema.schema", "number-ish"),
    ({"tools": [BAD_TOOL]}, "tools.0.function.parameters", "no"),
    ({"tools": BAD_NAME}, "tools.0.function.name", "pattern"),
    ({"tool_choice": "required"}, "tool_choice", "tools"),
    ({"functions": []}, "functions", "use tools"),
    ({"store": True}, "store", "False"),
    ({"think": 3}, "think", "dictionary"),
    ({"think": {"loops": 0}}, "think.loops", "greater"),
    ({"think": {"loops": "many"}}, "think.loops", "'auto'"),
    ({"think": {"loops": 2.5}}, "think.loops", "integer"),
    ({"think": {"loops": 2}}, "think.loops", "without a think dial"),
    ({"think": {"depth": 2}}, "think.depth", "no such field"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "without a think dial"),
    ({"reasoning_effort": "huge"}, "reasoning_effort", "'xhigh'"),
    ({"alignment": 0.5}, "alignment", "without clusters"),
    ({"alignment": -2}, "alignment", "greater"),
    ({"steer": {"factual": 1}}, "steer", "without clusters"),
    ({"steer": {"factual": "up"}}, "steer.factual", "number"),
    ({"include": ["routes"]}, "include.0", "'routing'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "parameter", "words"), REFUSED, ids=[json.dumps(row[0])[:40] for row in REFUSED]
)
def test_refused_with_a_sentence_that_names_the_field(api, fields, parameter, words):
    error = api.error(**fields)
    assert error["type"] == "invalid_request_error" and error["code"]
    assert error["param"] == parameter
    assert words in error["message"] and len(error["message"]) < 300


def test_null_is_as_good_as_absent(api):
    names = ["functions", "temperature", "stop", "tools", "think", "response_format", "seed"]
    assert api.chat(**dict.fromkeys(names)).status_code == 200


@pytest.mark.parametrize("fields", [{"max_tokens": 5}, {"max_tokens": None}])
def test_prompt_longer_than_the_context_names_both_numbers(api, served_engine, fields):
    error = api.error(text="x" * 5000, **fields)
    assert error["code"] == "context_length_exceeded"
    assert str(served_engine.context_length) in error["message"]
    assert any(int(word) >= 5000 for word in error["message"].split() if word.isdecimal())


def test_huge_max_tokens_is_not_clipped_in_silence(api):
    assert api.error(max_tokens=10**15)["code"] == "context_length_exceeded"


@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings"])
def test_unknown_model(api, path):
    fields = (
        {"messages": MESSAGES} if "chat" in path else {"prompt" if "com" in path else "input": "x"}
    )
    response = api.http.post(f"/v1/{path}", json={"model": "gpt-x", **fields})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert "tiny" in response.json()["error"]["message"]


BODIES = {
    "malformed": (b'{"model": ', 400, "invalid_json"),
    "empty": (b"", 400, "missing_field"),
    "not an object": (b"[1]", 400, "invalid_value"),
    "not UTF-8": (b'{"model": "\xff"}', 400, "invalid_json"),
    "nested deep": (b"[" * 500_000, 400, "invalid_json"),
    "long number": (b'{"seed": ' + b"9" * 5000 + b"}", 400, "invalid_json"),
    "10 MB": (b'{"model": "' + b"x" * 10_000_000 + b'"}', 413, "body_too_large"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_bodies(api, name):
    body, status, code = BODIES[name]
    headers = {"content-type": "application/json"}
    response = api.http.post("/v1/chat/completions", content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert api.chat().status_code == 200


def test_10_mb_in_pieces_without_a_length(api):
    headers = {"content-type": "application/json"}
    pieces = (b"x" * 100_000 for _ in range(100))
    response = api.http.post("/v1/chat/completions", content=pieces, headers=headers)
    assert response.status_code == 413


def test_large_body_within_the_limit_gets_a_plain_answer(api):
    assert api.error(text="word " * 100_000)["code"] == "context_length_exceeded"


def test_million_wrong_items_make_one_sentence(api):
    error = api.error(messages=[5] * 1_000_000)
    assert len(error["message"]) < 200
    response = api.complete([1, 2, "x"] * 200_000)
    assert response.status_code == 400 and len(response.text) < 400


def test_form_is_not_json(api):
    response = api.http.post("/v1/chat/completions", data={"model": "tiny"})
    assert response.status_code == 415 and "content-type" in response.json()["error"]["message"]


def test_half_a_surrogate_pair(api):
    body = json.dumps(chat_body("\ud800"))
    headers = {"content-type": "application/json"}
    response = api.http.post("/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400 and "Unicode" in response.json()["error"]["message"]


def test_nan_is_not_a_temperature(api):
    body = json.dumps(chat_body(temperature=float("nan")))
    headers = {"content-type": "application/json"}
    assert api.http.post("/v1/chat/completions", content=body, headers=headers).status_code == 400


def test_unknown_paths_and_methods(api):
    for response, status in ((api.http.get("/v1/nothing"), 404), (api.http.put("/v1/models"), 405)):
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_garbage_instead_of_http(url):
    host, port = httpx.URL(url).host, httpx.URL(url).port
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(b"\x16\x03\x01 what is this\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
