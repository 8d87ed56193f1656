import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from heddle.errors import WeightsError
from heddle.weights.checkpoint import open_checkpoint
from heddle.weights.gguf_tokenizer import PRE_TOKENIZERS, convert_tokenizer
from tests.weights.gguf_files import byte_level_fields, sentencepiece_fields, write_gguf
from tests.weights.lines import lines

LINES = lines(1500)


def converted(fields: dict[str, Any]) -> Tokenizer:
    prefixed = {f"tokenizer.ggml.{key}": value for key, value in fields.items()}
    return Tokenizer.from_str(convert_tokenizer(Path("x.gguf"), prefixed, 4096).json)


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def llama_cpp_ids(path: Path, texts: list[str]) -> list[list[int]]:
    llama_cpp = pytest.importorskip("llama_cpp")
    reference = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return [reference.tokenize(text.encode(), add_bos=False, special=True) for text in texts]


def test_default_model_equals_llama_cpp(default_gguf: Path) -> None:
    tokenizer = Tokenizer.from_str(open_checkpoint(default_gguf).tokenizer_json)
    assert [ids(tokenizer, line) for line in LINES] == llama_cpp_ids(default_gguf, LINES)


def test_default_model_gives_the_known_ids(default_gguf: Path) -> None:
    """Where llama.cpp is not installed: the hash of the ids that its release 0.3.36 gave."""
    tokenizer = Tokenizer.from_str(open_checkpoint(default_gguf).tokenizer_json)
    digest = hashlib.sha256(json.dumps([ids(tokenizer, line) for line in LINES]).encode())
    assert digest.hexdigest() == "ee75ea624685cdba19915aa6cb8c0f01ec9e661226af3073ebad255542d1d839"


def test_default_model_equals_transformers_where_there_are_no_digits(default_gguf: Path) -> None:
    """Beside digits: `transformers` forgets that this model cuts them one by one."""
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(
        default_gguf.parent, gguf_file=default_gguf.name
    )
    tokenizer = Tokenizer.from_str(open_checkpoint(default_gguf).tokenizer_json)
    without_digits = [line for line in LINES if not any(c.isnumeric() for c in line)]
    assert len(without_digits) > 500
    for line in without_digits:
        assert ids(tokenizer, line) == reference(line, add_special_tokens=False).input_ids


def test_default_model_gives_text_back(default_gguf: Path) -> None:
    tokenizer = Tokenizer.from_str(open_checkpoint(default_gguf).tokenizer_json)
    for line in LINES:
        assert tokenizer.decode(ids(tokenizer, line), skip_special_tokens=False) == line


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_each_cut_equals_llama_cpp(pre: str, tmp_path: Path) -> None:
    fields = byte_level_fields(1024, pre=pre)
    tokenizer = converted(fields)
    path = write_gguf(tmp_path / "x.gguf", tensors={}, tokenizer=fields)
    # llama.cpp leaves out the NFC normalisation that Qwen2's own tokenizer does first
    texts = (
        [tokenizer.normalizer.normalize_str(x) for x in LINES] if tokenizer.normalizer else LINES
    )
    assert [ids(tokenizer, text) for text in texts] == llama_cpp_ids(path, texts)


def test_cuts_differ_from_each_other() -> None:
    text = "  12345 don't DON'T!\n\n x"
    cuts = {
        pre: str(ids(converted(byte_level_fields(1024, pre=pre)), text)) for pre in PRE_TOKENIZERS
    }
    assert len(set(cuts.values())) >= 4, cuts


@pytest.mark.parametrize("begins_with_space", [True, False])
def test_sentencepiece_equals_llama_cpp(begins_with_space: bool, tmp_path: Path) -> None:
    fields = sentencepiece_fields(2048) | {"add_space_prefix": begins_with_space}
    path = write_gguf(tmp_path / "x.gguf", tensors={}, tokenizer=fields)
    plain = [line for line in LINES if "<|" not in line and "\0" not in line]
    texts = [*plain, "<s>hello 3.14</s>", "<s> a</s> b", "hello<s>hello", "a  b<s>"]
    tokenizer = converted(fields)
    assert [ids(tokenizer, text) for text in texts] == llama_cpp_ids(path, texts)
    for text in plain:
        assert tokenizer.decode(ids(tokenizer, text), skip_special_tokens=False) == text


def test_special_tokens_are_single_ids_and_skipped_when_asked() -> None:
    tokenizer = converted(byte_level_fields(512))
    assert ids(tokenizer, "<|im_start|>user")[0] == 1
    assert tokenizer.decode([1, 2], skip_special_tokens=True) == ""


def test_bos_is_in_the_template_when_the_file_asks_for_it() -> None:
    fields = byte_level_fields(512)
    assert converted(fields).encode("a").ids == ids(converted(fields), "a")
    tokenizer = converted(fields | {"add_bos_token": True})
    assert tokenizer.encode("a").ids == [1, *ids(tokenizer, "a")]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "bert"}, "tokenizer.ggml.model"),
        ({"pre": "unheard-of"}, "tokenizer.ggml.pre"),
        ({"tokens": None}, "tokenizer.ggml.tokens"),
        ({"tokens": ["a", "a"]}, "tokenizer.ggml.tokens"),
        ({"tokens": [str(i) for i in range(5000)]}, "tokenizer.ggml.tokens"),
        ({"token_type": [1]}, "tokenizer.ggml.token_type"),
        ({"merges": ["zz qq"]}, "tokenizer.ggml.merges"),
        ({"merges": [""]}, "tokenizer.ggml.merges"),
        ({"merges": 3}, "tokenizer.ggml.merges"),
        ({"bos_token_id": 512}, "special token id 512"),
    ],
)
def test_bad_fields_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(WeightsError, match=named):
        converted(byte_level_fields(512) | changes)


def test_sentencepiece_needs_its_scores() -> None:
    with pytest.raises(WeightsError, match=r"tokenizer\.ggml\.scores"):
        converted(sentencepiece_fields(512) | {"scores": [1.0]})
