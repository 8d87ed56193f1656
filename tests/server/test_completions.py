"""POST /v1/completions."""

import math

import pytest

from heddle.text.tokenizer import Tokenizer
from tests.server.events import chunks_of


def test_prompts_of_every_kind(api):
    (text,) = api.complete("Hello", max_tokens=5).json()["choices"]
    ids = api.http.post(
        "/v1/completions",
        json={"model": "tiny", "prompt": "Hello", "max_tokens": 0, "echo": True, "logprobs": 0},
    ).json()["choices"][0]["logprobs"]["tokens"]
    assert "".join(ids) == "Hello"
    several = api.complete(["Hello", "The loom"], max_tokens=5, n=2).json()
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in several["choices"]]
    assert texts[0] == texts[1] == text["text"] and texts[2] == texts[3]
    assert several["usage"]["completion_tokens"] == 20


def test_token_ids_are_taken_as_they_are(api, served_engine):
    one = api.complete([5, 6, 7], max_tokens=4, echo=True, logprobs=0).json()
    assert one["usage"]["prompt_tokens"] == 3
    both = api.complete([[5, 6, 7], [8]], max_tokens=4).json()
    assert both["usage"]["prompt_tokens"] == 4
    assert one["choices"][0]["text"].endswith(both["choices"][0]["text"])
    response = api.complete([[5, 9999]])
    assert response.status_code == 400 and "511" in response.json()["error"]["message"]


def test_default_length_is_openais(api):
    assert api.complete("Hello", ignore_eos=True).json()["usage"]["completion_tokens"] == 16


def test_echo_scores_the_prompt_as_generation_does(api, served_engine):
    """What lm-eval and others compute likelihoods from."""
    tokenizer = Tokenizer(served_engine.checkpoint.tokenizer_json)
    prompt = tokenizer.encode("The loom")
    (next_one,) = api.complete(prompt, max_tokens=1, logprobs=20).json()["choices"]
    likely = next_one["logprobs"]["top_logprobs"][0]
    ids = [id for id in range(tokenizer.size) if tokenizer.token_text(id) in likely]
    followers = [id for id in ids if "\ufffd" not in tokenizer.token_text(id)]
    assert len(followers) > 2
    for follower in followers:
        fields = {"max_tokens": 0, "echo": True, "logprobs": 2}
        (scored,) = api.complete([*prompt, follower], **fields).json()["choices"]
        logprobs = scored["logprobs"]
        assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
        expected = likely[tokenizer.token_text(follower)]
        assert math.isclose(logprobs["token_logprobs"][-1], expected, abs_tol=1e-3)
        assert {len(values) for values in logprobs.values()} == {len(prompt) + 1}


@pytest.mark.parametrize("stream", [False, True])
def test_the_token_that_ends_an_answer_is_scored(api, stream):
    """Or those who ask for one new token, and drop its score, would drop one of the prompt's."""
    fields = {"echo": True, "logprobs": 0, "stream": stream}
    asked = {"max_tokens": 1, "logit_bias": {"70": 100.0}, "stop_token_ids": [70], **fields}
    response = api.complete("The loom", **asked)
    choices = _choices(response, stream=stream)
    assert "".join(choice["text"] for choice in choices) == "The loom"
    assert choices[-1]["finish_reason"] == "stop"
    prompt = _choices(api.complete("The loom", max_tokens=0, **fields), stream=stream)
    *told, end = _logprobs(choices)
    assert told == _logprobs(prompt) and end < 0


def _choices(response, *, stream: bool) -> list[dict]:
    if stream:
        return [chunk["choices"][0] for chunk in chunks_of(response)]
    return response.json()["choices"]


def _logprobs(choices: list[dict]) -> list[float | None]:
    return [n for choice in choices for n in (choice["logprobs"] or {}).get("token_logprobs", [])]


def test_scoring_alone_generates_nothing(api):
    reply = api.complete("The loom", max_tokens=0, echo=True, logprobs=1).json()
    assert reply["choices"][0]["text"] == "The loom"
    assert reply["usage"]["completion_tokens"] == 0
    offsets = reply["choices"][0]["logprobs"]["text_offset"]
    assert offsets == sorted(offsets)


@pytest.mark.parametrize("logprobs", [None, 2])
@pytest.mark.parametrize("echo", [False, True])
def test_stream_adds_up(api, echo, logprobs):
    fields = {"max_tokens": 12, "echo": echo, "logprobs": logprobs}
    whole = api.complete(["Hello", "The loom"], **fields).json()["choices"]
    texts, offsets = ["", ""], [[], []]
    for chunk in chunks_of(api.complete(["Hello", "The loom"], stream=True, **fields)):
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
            offsets[choice["index"]] += (choice["logprobs"] or {}).get("text_offset", [])
    assert texts == [choice["text"] for choice in whole]
    if logprobs:
        assert offsets == [choice["logprobs"]["text_offset"] for choice in whole]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"max_tokens": 0}, "echo"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"n": 9, "prompt": ["a", "b"]}, "n"),
    ],
)
def test_refused(api, fields, words):
    response = api.complete(**{"prompt": "x", **fields})
    assert response.status_code == 400, response.text
    assert words in response.json()["error"]["message"]
