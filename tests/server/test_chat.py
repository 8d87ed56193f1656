"""POST /v1/chat/completions, whole and streamed."""

import json

import jsonschema
import pytest

from tests.server.events import chunks_of

PLACE = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "big": {"type": "boolean"}},
    "required": ["city", "big"],
    "additionalProperties": False,
}
PLACE_FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}}


def tool(name: str) -> dict:
    return {"type": "function", "function": {"name": name, "parameters": PLACE}}


def joined(chunks: list[dict]) -> list[dict]:
    """Put a stream's one choice with one tool call together, as clients do."""
    call: dict = {"function": {"arguments": ""}}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        assert not choice["delta"].get("content")
        for delta in choice["delta"].get("tool_calls", ()):
            assert delta.pop("index") == 0
            arguments = call["function"]["arguments"] + delta["function"]["arguments"]
            function = {**call["function"], **delta.pop("function"), "arguments": arguments}
            call = {**call, **delta, "function": function}
    message = {"content": None, "tool_calls": [call]}
    return [{"message": message, "finish_reason": choice["finish_reason"]}]


def test_answer_has_openais_shape(api):
    reply = api.chat().json()
    assert reply["id"].startswith("chatcmpl-") and reply["object"] == "chat.completion"
    (choice,) = reply["choices"]
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"]
    assert choice["finish_reason"] == "length" and choice["logprobs"] is None
    usage = reply["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8
    assert 0 <= usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]
    assert reply["timings"]["tokens_per_second"] > 0


def test_second_time_the_prompt_is_cached(api):
    text = "The loom holds the warp; the heddle lifts it. " * 3
    api.chat(text)
    assert api.chat(text).json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_stream_adds_up_to_the_whole_answer(api):
    whole = api.chat(max_tokens=30).json()
    chunks = chunks_of(api.chat(max_tokens=30, stream=True, stream_options={"include_usage": True}))
    *pieces, last = chunks
    assert pieces[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces)
    assert text == whole["choices"][0]["message"]["content"]
    assert [piece["choices"][0]["finish_reason"] for piece in pieces[:-1]] == [None] * (
        len(pieces) - 1
    )
    assert pieces[-1]["choices"][0]["finish_reason"] == "length"
    assert all(piece["usage"] is None and piece["id"] == last["id"] for piece in pieces)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 30
    assert last["timings"]["time_to_first_token_ms"] > 0


def test_without_include_usage_no_chunk_has_usage(api):
    assert all("usage" not in chunk for chunk in chunks_of(api.chat(stream=True)))


def test_several_answers_of_one_seed_differ_and_repeat(api):
    def texts() -> list[str]:
        reply = api.chat(n=3, seed=7, temperature=1).json()
        assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
        assert reply["usage"]["completion_tokens"] == 24
        return [choice["message"]["content"] for choice in reply["choices"]]

    first = texts()
    assert len(set(first)) == 3
    assert texts() == first


def test_several_streamed_answers_are_told_apart(api):
    whole = api.chat(n=2, seed=7, temperature=1).json()
    texts = ["", ""]
    for chunk in chunks_of(api.chat(n=2, seed=7, temperature=1, stream=True)):
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_string_ends_the_text_before_it(api, served_engine, stream):
    text = api.chat(max_tokens=40).json()["choices"][0]["message"]["content"]
    stop = text[10:13]
    expected = text[: text.index(stop)]
    response = api.chat(max_tokens=40, stop=[stop, "never to be found"], stream=stream)
    if stream:
        choices = [chunk["choices"][0] for chunk in chunks_of(response)]
        assert "".join(choice["delta"].get("content", "") for choice in choices) == expected
        assert choices[-1]["finish_reason"] == "stop"
    else:
        (choice,) = response.json()["choices"]
        assert choice["message"]["content"] == expected and choice["finish_reason"] == "stop"
        assert response.json()["usage"]["completion_tokens"] < 40


def test_stop_token_ends_the_answer(api):
    (choice,) = api.chat(logit_bias={"300": 100}, stop_token_ids=[300]).json()["choices"]
    assert choice["finish_reason"] == "stop" and choice["message"]["content"] == ""


def test_logprobs(api):
    (choice,) = api.chat(logprobs=True, top_logprobs=3).json()["choices"]
    tokens = choice["logprobs"]["content"]
    assert len(tokens) == 8
    for token in tokens:
        values = [top["logprob"] for top in token["top_logprobs"]]
        assert len(values) == 3 and values == sorted(values, reverse=True)
        assert token["logprob"] == values[0]  # greedy
    text = b"".join(bytes(token["bytes"]) for token in tokens).decode("utf-8", "replace")
    assert text == choice["message"]["content"]
    streamed = chunks_of(api.chat(logprobs=True, top_logprobs=3, stream=True))
    pieces = [chunk["choices"][0]["logprobs"] for chunk in streamed]
    assert [token for piece in pieces if piece for token in piece["content"]] == tokens


@pytest.mark.parametrize("temperature", [0, 1])
def test_json_schema_is_enforced(api, temperature):
    for seed in range(3):
        (choice,) = api.chat(
            max_tokens=100, response_format=PLACE_FORMAT, temperature=temperature, seed=seed
        ).json()["choices"]
        jsonschema.validate(json.loads(choice["message"]["content"]), PLACE)
        assert choice["finish_reason"] == "stop"


def test_json_object_begins_an_object(api):
    (choice,) = api.chat(response_format={"type": "json_object"}, max_tokens=20).json()["choices"]
    assert choice["message"]["content"].startswith("{")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "tool_choice", ["required", {"type": "function", "function": {"name": "b"}}]
)
def test_required_tool_call(api, tool_choice, stream):
    response = api.chat(
        tools=[tool("a"), tool("b")],
        tool_choice=tool_choice,
        parallel_tool_calls=False,
        max_tokens=120,
        stream=stream,
    )
    (choice,) = joined(chunks_of(response)) if stream else response.json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["message"]["content"] is None and "index" not in call
    name, finish_reason = call["function"]["name"], choice["finish_reason"]
    assert call["id"].startswith("call_") and call["type"] == "function"
    assert name == "b" if isinstance(tool_choice, dict) else name in "ab"
    jsonschema.validate(json.loads(call["function"]["arguments"]), PLACE)
    assert finish_reason == "tool_calls"


def test_tool_choice_none_leaves_the_tools_out(api):
    plain = api.chat().json()
    assert api.chat(tools=[tool("a")], tool_choice="none").json()["usage"] == plain["usage"]
    offered = api.chat(tools=[tool("a")]).json()
    assert offered["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


def test_conversation_with_tool_results_is_read(api):
    call = {"id": "call_1", "type": "function", "function": {"name": "a", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "How"}, {"type": "text", "text": "?"}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [call],
            "refusal": None,
            "audio": None,
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        {"role": "assistant", "content": "So", "reasoning_content": "hm", "annotations": []},
        {"role": "user", "content": "Go on", "name": "Ada"},
    ]
    response = api.chat(messages=messages, tools=[tool("a")])
    assert response.status_code == 200, response.text


def test_no_limit_means_what_the_context_has_room_for(api, served_engine):
    reply = api.chat("x" * 900, max_tokens=None, ignore_eos=True).json()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["total_tokens"] == served_engine.context_length


def test_control_tokens_in_a_message_stay_text(api):
    plain = api.chat("a").json()["usage"]["prompt_tokens"]
    typed = api.chat("a<|im_end|>").json()["usage"]["prompt_tokens"]
    assert typed > plain + 1
