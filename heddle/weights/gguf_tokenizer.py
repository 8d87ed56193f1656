"""A GGUF file's tokenizer as the text of a Hugging Face `tokenizer.json`.

Called by `gguf.py`. GGUF keeps tokens, their kinds and merges, and only names how text is cut
before them; the cuts below are those of the models' own `tokenizer.json`, or where a name belongs
to no model ("default"), of `src/llama-vocab.cpp` in https://github.com/ggml-org/llama.cpp.
SentencePiece models (`tokenizer.ggml.model` "llama") keep scores instead of merges
(https://github.com/google/sentencepiece, `src/bpe_model.cc`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from heddle.errors import WeightsError
from heddle.weights.contents import check_token_ids
from heddle.weights.fields import Fields

# Kinds of tokens: `llama_token_type` in llama.h.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece writes a space as this

Json = dict[str, Any]


class ConvertedTokenizer(NamedTuple):
    """The converted text; tokens and their kinds by id; whether texts begin with `bos_id`."""

    json: str
    tokens: list[str]
    kinds: Sequence[int]
    bos_id: int | None
    adds_bos: bool


class PreTokenizer(NamedTuple):
    """How text is cut before byte-level merging."""

    cuts: tuple[Json, ...]
    normalizer: Json | None = None
    ignore_merges: bool = False
    adds_bos: bool = False


def _byte_level(*, use_regex: bool) -> Json:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _split(regex: str) -> Json:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_CUTS = (_split(_LLAMA3), _byte_level(use_regex=False))
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")

PRE_TOKENIZERS = {
    "default": PreTokenizer((*map(_split, _DEFAULT), _byte_level(use_regex=False))),
    "gpt-2": PreTokenizer((_byte_level(use_regex=True),)),
    "smollm": PreTokenizer(
        ({"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True))
    ),
    "qwen2": PreTokenizer(
        (_split(_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")), _byte_level(use_regex=False)),
        normalizer={"type": "NFC"},
    ),
    "llama-bpe": PreTokenizer(_LLAMA3_CUTS, ignore_merges=True, adds_bos=True),
}


def convert_tokenizer(path: Path, fields: Json, vocab_size: int) -> ConvertedTokenizer:
    """Convert the `tokenizer.ggml` fields; a WeightsError names what is missing or unknown."""
    tokens = _strings(path, fields, "tokens")
    if not 0 < len(tokens) <= vocab_size:
        raise WeightsError(
            f"{path}: field 'tokenizer.ggml.tokens' has {len(tokens)} for {vocab_size} embeddings"
        )
    if len(set(tokens)) != len(tokens):
        raise WeightsError(
            f"{path}: field 'tokenizer.ggml.tokens' holds a token twice: the file is corrupt"
        )
    kinds = fields.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise WeightsError(
            f"{path}: field 'tokenizer.ggml.token_type' does not match the {len(tokens)} tokens"
        )
    model = fields.get("tokenizer.ggml.model")
    if model == "gpt2":
        body, adds_bos = _byte_level_bpe(path, fields, tokens)
    elif model == "llama":
        body, adds_bos = _sentencepiece(path, fields, tokens, kinds), True
    else:
        raise WeightsError(
            f"{path}: field 'tokenizer.ggml.model' is {str(model)[:60]!r}, not 'gpt2' or 'llama'"
        )
    values = Fields(path, fields)
    bos_id = values.find("tokenizer.ggml.bos_token_id", int)
    check_token_ids(path, [bos_id], len(tokens))
    template = None
    if bos_id is not None and values.get("tokenizer.ggml.add_bos_token", bool, adds_bos):
        template = _begin_with(tokens[bos_id], bos_id)
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(tokens, kinds),
        "post_processor": template,
        **body,
    }
    text = json.dumps(document, ensure_ascii=False)
    return ConvertedTokenizer(text, tokens, kinds, bos_id, template is not None)


def _added_tokens(tokens: list[str], kinds: Sequence[int]) -> list[Json]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": token_id, "content": token, "special": kind != USER_DEFINED} | flags
        for token_id, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if token and kind in (CONTROL, USER_DEFINED)
    ]


def _begin_with(token: str, token_id: int) -> Json:
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    texts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    return {
        "type": "TemplateProcessing",
        "single": [first, texts[0]],
        "pair": [first, *texts],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }


def _strings(path: Path, fields: Json, key: str) -> list[str]:
    values = fields.get(f"tokenizer.ggml.{key}")
    if not isinstance(values, list) or not all(type(value) is str for value in values):
        raise WeightsError(
            f"{path}: field 'tokenizer.ggml.{key}' is missing or not a list of strings"
        )
    return values


def _byte_level_bpe(path: Path, fields: Json, tokens: list[str]) -> tuple[Json, bool]:
    name = fields.get("tokenizer.ggml.pre", "default")
    pre = PRE_TOKENIZERS.get(name) if isinstance(name, str) else None
    if pre is None:
        known = ", ".join(PRE_TOKENIZERS)
        raise WeightsError(
            f"{path}: field 'tokenizer.ggml.pre' is {str(name)[:60]!r}; Heddle knows {known}"
        )
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    merges = [merge.split(" ") for merge in _strings(path, fields, "merges")]
    for merge in merges:
        if len(merge) != 2 or not (
            merge[0] in vocabulary and merge[1] in vocabulary and "".join(merge) in vocabulary
        ):
            raise WeightsError(
                f"{path}: field 'tokenizer.ggml.merges' holds {merge}: not two known tokens"
            )
    pre_tokenizer = (
        pre.cuts[0] if len(pre.cuts) == 1 else {"type": "Sequence", "pretokenizers": list(pre.cuts)}
    )
    body = {
        "normalizer": pre.normalizer,
        "pre_tokenizer": pre_tokenizer,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": _bpe(vocabulary, merges, ignore_merges=pre.ignore_merges),
    }
    return body, pre.adds_bos


def _sentencepiece(path: Path, fields: Json, tokens: list[str], kinds: Sequence[int]) -> Json:
    scores = fields.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise WeightsError(
            f"{path}: field 'tokenizer.ggml.scores' does not match the {len(tokens)} tokens"
        )
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    unknown = next(
        (token for token, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None
    )
    begins_with_space = fields.get("tokenizer.ggml.add_space_prefix", True) is not False
    space = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    unspace = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    normalizers = [{"type": "Prepend", "prepend": SPACE}] * begins_with_space + [space]
    decoders = [unspace, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if begins_with_space:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    model = _bpe(vocabulary, _merges_from_scores(tokens, kinds, scores), ignore_merges=False)
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model | {"unk_token": unknown, "fuse_unk": True, "byte_fallback": True},
    }


def _merges_from_scores(
    tokens: list[str], kinds: Sequence[int], scores: Sequence[float]
) -> list[list[str]]:
    """Return every way to make a token from two: SentencePiece joins the best pair first."""
    rank = {
        token: (-score, token_id)
        for token_id, (token, kind, score) in enumerate(zip(tokens, kinds, scores, strict=True))
        if kind in (NORMAL, UNUSED)
    }
    merges = [
        (rank[token], rank[token[:cut]], [token[:cut], token[cut:]])
        for token in rank
        for cut in range(1, len(token))
        if token[:cut] in rank and token[cut:] in rank
    ]
    return [pair for *_, pair in sorted(merges)]


def _bpe(vocabulary: dict[str, int], merges: list[list[str]], *, ignore_merges: bool) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": vocabulary,
        "merges": merges,
    }
