"""Shards round-trip; damaged, truncated and foreign ones are refused with a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heddle.errors import DataError
from heddle.train.data.document import IGNORED
from heddle.train.data.shard_writer import ShardWriter
from heddle.train.data.shards import Shards, tokenizer_sha256
from tests.train.data.corpus import byte_tokenizer, write_corpus

documents = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 65_535), st.booleans()), min_size=1, max_size=30),
        st.integers(-1, 4),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(documents, st.booleans(), st.sampled_from([259, 70_000]), st.integers(1, 200))
def test_what_is_written_is_read(tmp_path_factory, written, whole, vocab_size, shard_tokens):
    folder = tmp_path_factory.mktemp("shards")
    writer = ShardWriter(
        folder, "{}", vocab_size=vocab_size, end_id=0, whole=whole, shard_tokens=shard_tokens
    )
    for pairs, cluster in written:
        ids, trained = (np.array(column) for column in zip(*pairs, strict=True))
        writer.add(
            ids, cluster=cluster, source="s", licence="l", trained_N=trained if whole else None
        )
    manifest = writer.finish()
    shards = Shards(folder, tokenizer_sha256=tokenizer_sha256("{}"))
    shards.verify()
    assert shards.manifest == manifest
    assert shards.num_documents == len(written) == manifest.sources["s"]["num_documents"]
    assert manifest.num_tokens == sum(manifest.clusters.values())
    for number, (pairs, cluster) in enumerate(written):
        token_N, target_N, found = shards.read(number)
        assert token_N.tolist() == [token for token, _ in pairs]
        assert target_N.tolist() == [
            token if trained or not whole else IGNORED for token, trained in pairs[1:]
        ] + [IGNORED]
        assert found == cluster
        assert shards.length(number) == len(pairs)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_corpus(tmp_path).folder


def edit_manifest(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


def test_a_cut_file_is_noticed_on_opening(folder):
    path = folder / "00001.shard"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="00001.shard is corrupt: size_bytes should be"):
        Shards(folder)


def test_a_changed_byte_is_noticed_by_its_hash(folder):
    path = folder / "00000.shard"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="00000.shard is corrupt: its sha256"):
        Shards(folder).verify()


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, b"X", "is not a shard"),
        (8, b"\x02", "version is 2, and this Heddle reads 1"),
        (12, b"\x03", "bytes of a token must be 2 or 4, not 3"),
        (16, b"\xff\xff\xff\xff", "is corrupt: size_bytes should be"),
    ],
)
def test_a_damaged_header_is_named(folder, place, value, words):
    path = folder / "00000.shard"
    data = bytearray(path.read_bytes())
    data[place : place + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(DataError, match=words):
        Shards(folder)


def test_offsets_that_do_not_add_up_are_named(folder):
    path = folder / "00000.shard"
    data = bytearray(path.read_bytes())
    num_tokens = json.loads((folder / "manifest.json").read_text())["shards"][0]["num_tokens"]
    offsets = 64 + -(-2 * num_tokens // 8) * 8
    data[offsets + 8 : offsets + 16] = data[offsets + 16 : offsets + 24]
    path.write_bytes(data)
    with pytest.raises(DataError, match="00000.shard is corrupt: the offsets"):
        Shards(folder)


def test_missing_files_are_named(folder, tmp_path):
    (folder / "00001.shard").unlink()
    with pytest.raises(DataError, match="00001.shard is missing, but the manifest names it"):
        Shards(folder)
    with pytest.raises(DataError, match="holds no shards: there is no manifest.json"):
        Shards(tmp_path / "nowhere")


def test_shards_of_another_tokenizer_are_refused(folder):
    Shards(folder, tokenizer_sha256=tokenizer_sha256(byte_tokenizer().json))
    with pytest.raises(DataError, match="manifest.json: tokenizer_sha256 is .* prepare the text"):
        Shards(folder, tokenizer_sha256=tokenizer_sha256("another"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 9}, "manifest.json: version is 9, and this Heddle reads 1"),
        ({"num_documents": 0}, "num_documents is 0, there is nothing to read"),
        ({"shards": [{"file": "00000.shard"}]}, "a field is missing or unknown"),
        ({"colour": "red"}, "a field is missing or unknown .*colour"),
        ({"shards": 3}, "a field is missing or unknown"),
    ],
)
def test_damaged_manifests_are_named(folder, changes, words):
    edit_manifest(folder, **changes)
    with pytest.raises(DataError, match=words):
        Shards(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "3"])
def test_manifests_that_are_none_are_named(folder, text):
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="manifest.json"):
        Shards(folder)
