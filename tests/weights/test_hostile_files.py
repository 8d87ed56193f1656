"""Files that lie: the answer is a WeightsError or a checkpoint, soon and in little memory."""

import json
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from heddle.errors import WeightsError
from heddle.weights.checkpoint import open_checkpoint
from tests.tiny import save_tiny
from tests.weights.gguf_files import write_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "whole.gguf", format="Q4_1").read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "x.gguf"


def opens_or_refuses(path: Path, data: bytes) -> bool:
    """Write and open a file; True if it opened, and then its tokenizer and tensors can be used."""
    path.write_bytes(data)
    try:
        checkpoint = open_checkpoint(path)
    except WeightsError as error:
        assert str(path) in str(error)
        return False
    Tokenizer.from_str(checkpoint.tokenizer_json)
    for name in checkpoint.tensors:
        assert checkpoint.tensors[name]
    return True


def header_bytes(whole: bytes) -> int:
    return whole.rindex(b"blk.1.") + 100


def test_the_whole_file_opens(whole: bytes, scratch: Path) -> None:
    assert opens_or_refuses(scratch, whole)


@settings(max_examples=60, deadline=2000)
@given(where=st.floats(0, 1), of_header=st.booleans())
def test_a_file_cut_anywhere_is_refused(
    whole: bytes, scratch: Path, where: float, of_header: bool
) -> None:
    size = int(where * (header_bytes(whole) if of_header else len(whole) - 1))
    assert not opens_or_refuses(scratch, whole[:size])


@settings(max_examples=300, deadline=2000)
@given(
    where=st.floats(0, 1),
    value=st.integers(0, 255),
    run=st.sampled_from([1, 4, 8]),
    early=st.booleans(),
)
def test_changed_bytes_never_crash(
    whole: bytes, scratch: Path, where: float, value: int, run: int, early: bool
) -> None:
    data = bytearray(whole)
    start = int(where * (1024 if early else header_bytes(whole)))
    data[start : start + run] = bytes([value]) * run
    opens_or_refuses(scratch, bytes(data))


def test_many_flipped_bits_never_crash(whole: bytes, scratch: Path) -> None:
    chance = random.Random(3)
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 20)):
            data[chance.randrange(header_bytes(whole))] ^= 1 << chance.randrange(8)
        opens_or_refuses(scratch, bytes(data))


def counts(num_tensors: int, num_fields: int) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, num_tensors, num_fields)


def array_field(kind: int, count: int) -> bytes:
    return struct.pack("<Q1sIIQ", 1, b"a", 9, kind, count)


def tensor(layout: str, *values: int) -> bytes:
    """Return a file that claims one tensor: dimensions, shape, type, offset."""
    return counts(1, 0) + struct.pack(f"<Q1s{layout}", 1, b"t", *values) + bytes(200)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "0 bytes"),
        (b"GGUF" + bytes(10), "14 bytes"),
        (b"PK\3\4" + bytes(100), "not a GGUF file"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "version 1"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "version"),
        (counts(0, 1 << 63), "fields"),
        (counts(1 << 63, 0), "tensors"),
        (counts(0, 1) + struct.pack("<Q", 1 << 62), "cut short"),
        (counts(0, 1) + array_field(4, 1 << 40), "claims"),
        (counts(0, 1) + array_field(4, 1 << 21), "cut short"),
        (counts(0, 1) + array_field(8, 1 << 21), "cut short"),
        (counts(0, 1) + array_field(9, 1) * 9, "unknown type 9"),
        (counts(0, 1) + struct.pack("<Q1sI", 1, b"a", 77), "unknown type 77"),
        (counts(0, 1) + struct.pack("<Q2sIQ", 2, b"\xff\xfe", 4, 1), "UTF-8"),
        (counts(0, 2) + struct.pack("<Q1sII", 1, b"a", 4, 1) * 2, "twice"),
        (tensor("I", 9), "9 dimensions"),
        (tensor("IQIQ", 1, 0, 0, 0), "empty shape"),
        (tensor("IQIQ", 1, 1 << 62, 0, 0), "cut short"),
        (tensor("IQIQ", 1, 8, 0, 1 << 63), "cut short"),
        (tensor("IQIQ", 1, 8, 0, 7), "offset"),
        (tensor("IQQIQ", 2, 33, 1, 3, 0), "multiple of Q4_1"),
        (tensor("IQQIQ", 2, 32, 1, 99, 0), "number 99"),
    ],
)
def test_lies_of_the_header_are_named(data: bytes, named: str, scratch: Path) -> None:
    scratch.write_bytes(data)
    start = time.monotonic()
    with pytest.raises(WeightsError, match=named):
        open_checkpoint(scratch)
    assert time.monotonic() - start < 1.0


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        open_checkpoint(tmp_path / "absent.gguf")
    with pytest.raises(WeightsError, match="neither"):
        open_checkpoint(tmp_path / "absent.bin")


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:40] + bytes(b ^ 0x55 for b in data[40:60]) + data[60:]


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
)
@pytest.mark.parametrize(
    "damage", [cut, flipped, lambda data: b"", lambda data: b"[]", lambda data: b'{"a": NaN}']
)
def test_damaged_files_of_a_folder_are_named(
    name: str, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path / "tiny")
    if not (folder / name).exists():
        (folder / name).write_text('{"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}')
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    try:
        open_checkpoint(folder)
    except WeightsError as error:
        assert name in str(error) or "safetensors" in str(error)
    else:
        assert name == "tokenizer_config.json", "every other file is needed"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=4,
)


TOKENIZER_CONFIG = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "chat_template": [{"name": "default", "template": "x"}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny(tmp_path_factory.mktemp("hostile") / "tiny")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2]}')
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return folder


@settings(max_examples=300, deadline=2000)
@given(data=st.data())
def test_any_value_in_a_json_file_of_a_folder_never_crashes(
    folder: Path, data: st.DataObject
) -> None:
    file = data.draw(st.sampled_from(sorted(folder.glob("*.json"))))
    before = file.read_bytes()
    document = json.loads(before)
    place = document
    for _ in range(data.draw(st.integers(0, 2))):  # a field within a field, maybe
        inner = [value for value in place.values() if isinstance(value, dict) and value]
        place = data.draw(st.sampled_from(inner)) if inner else place
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    file.write_text(json.dumps(document))
    try:
        open_checkpoint(folder)
    except WeightsError as error:
        assert str(folder) in str(error)
    finally:
        file.write_bytes(before)
