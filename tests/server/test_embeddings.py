"""POST /v1/embeddings."""

import base64
import math
import struct

import pytest


def embed(api, given, **fields):
    return api.http.post("/v1/embeddings", json={"model": "tiny", "input": given, **fields})


def test_vectors_have_length_one_and_say_what_they_are(api, served_engine):
    reply = embed(api, ["The loom", "The warp and the weft"]).json()
    assert [item["index"] for item in reply["data"]] == [0, 1]
    for item in reply["data"]:
        assert len(item["embedding"]) == served_engine.checkpoint.config.width
        assert math.isclose(math.hypot(*item["embedding"]), 1, rel_tol=1e-6)
    assert "not trained for retrieval" in reply["pooling"]
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] > 2


def test_base64_is_the_same_vector(api):
    plain = embed(api, "The loom").json()["data"][0]["embedding"]
    packed = embed(api, "The loom", encoding_format="base64").json()["data"][0]["embedding"]
    data = base64.b64decode(packed)
    unpacked = struct.unpack(f"<{len(data) // 4}f", data)
    assert all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(plain, unpacked, strict=True))


def test_many_inputs_give_what_each_gives_alone(api):
    texts = [f"text number {number}" for number in range(20)]
    together = embed(api, texts).json()["data"]
    alone = embed(api, texts[13]).json()["data"][0]["embedding"]
    pairs = zip(together[13]["embedding"], alone, strict=True)
    assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in pairs)


def test_token_ids(api):
    assert len(embed(api, [[1, 2], [3]]).json()["data"]) == 2
    assert len(embed(api, [1, 2, 3]).json()["data"]) == 1


@pytest.mark.parametrize(
    ("given", "fields", "words"),
    [
        ([], {}, "input"),
        ("", {}, "empty"),
        (["x"] * 300, {}, "256"),
        ("x" * 5000, {}, "1024"),
        ("x", {"dimensions": 8}, "dimensions"),
        ("x", {"encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_refused(api, given, fields, words):
    response = embed(api, given, **fields)
    assert response.status_code == 400, response.text
    assert words in response.json()["error"]["message"]
