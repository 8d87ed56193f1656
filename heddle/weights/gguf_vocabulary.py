"""A tokenizer as the `tokenizer.ggml` fields of a GGUF file: `gguf_tokenizer` the other way round.

Called by `gguf_writer`. GGUF only names how text is cut, so that it can say the tokenizers whose
cuts have a name there; what is written is read again and compared.
"""

import json
from typing import Any

from heddle.errors import WeightsError
from heddle.weights.contents import Checkpoint
from heddle.weights.gguf_tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    PRE_TOKENIZERS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Json,
    convert_tokenizer,
)

BYTE_TOKENS = {f"<0x{byte:02X}>" for byte in range(256)}
# Neither changes a token id: offsets into the text, and how a decoder joins what it is given.
IGNORED = ("trim_offsets",)


def vocabulary_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a tokenizer's fields. Raises WeightsError for one that GGUF cannot say."""
    document = json.loads(checkpoint.tokenizer_json)
    fields = {
        f"tokenizer.ggml.{key}": value
        for key, value in _fields(checkpoint, document).items()
        if value is not None
    }
    if checkpoint.chat_template is not None:
        fields["tokenizer.chat_template"] = checkpoint.chat_template
    written = convert_tokenizer(checkpoint.path, fields, checkpoint.config.vocab_size)
    before, after = _meaning(document), _meaning(json.loads(written.json))
    different = [key for key, value in before.items() if value != after[key]]
    if different:
        raise _cannot(checkpoint, f"its {different[0]} has no form there")
    return fields


def _fields(checkpoint: Checkpoint, document: Json) -> dict[str, Any]:
    model = document["model"]
    if model.get("type") != "BPE":
        raise _cannot(checkpoint, f"it is of type {str(model.get('type'))[:40]!r}, not BPE")
    tokens, kinds = _tokens(checkpoint, document)
    eos_id, eot_id, eom_id, *_ = (*checkpoint.eos_ids, None, None, None)
    fields: dict[str, Any] = {
        "tokens": tokens,
        "token_type": kinds,
        "bos_token_id": checkpoint.bos_id,
        "eos_token_id": eos_id,
        "eot_token_id": eot_id,
        "eom_token_id": eom_id,
        "add_bos_token": checkpoint.add_bos,
    }
    if not model.get("byte_fallback"):
        merges = [" ".join(pair) for pair in _merges(model)]
        return fields | {"model": "gpt2", "pre": _cuts(checkpoint, document), "merges": merges}
    rank: dict[str, int] = {}
    for left, right in _merges(model):
        rank.setdefault(left + right, len(rank))
    scores = [-float(rank.get(token, len(rank) + place)) for place, token in enumerate(tokens)]
    normalizer = document.get("normalizer") or {}
    prepends = any(step.get("type") == "Prepend" for step in normalizer.get("normalizers", []))
    if model.get("unk_token") in tokens:
        kinds[tokens.index(model["unk_token"])] = UNKNOWN
    return fields | {"model": "llama", "scores": scores, "add_space_prefix": prepends}


def _tokens(checkpoint: Checkpoint, document: Json) -> tuple[list[str], list[int]]:
    """Return every id's token and its kind; ids without one get a token that no text has."""
    size = checkpoint.config.vocab_size
    tokens = [f"[PAD{token_id}]" for token_id in range(size)]
    kinds = [UNUSED] * size
    fallback = document["model"].get("byte_fallback")
    for token, token_id in document["model"]["vocab"].items():
        tokens[token_id] = token
        kinds[token_id] = BYTE if fallback and token in BYTE_TOKENS else NORMAL
    for added in document.get("added_tokens") or []:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = CONTROL if added.get("special") else USER_DEFINED
    return tokens, kinds


def _merges(model: Json) -> list[tuple[str, str]]:
    """Return merges, which older files have as texts."""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def _cuts(checkpoint: Checkpoint, document: Json) -> str:
    """Return GGUF's name for how text is cut."""
    meant = _cutting(document)
    for name, pre in PRE_TOKENIZERS.items():
        known = {
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(pre.cuts)},
            "normalizer": pre.normalizer,
            "model": {"ignore_merges": pre.ignore_merges},
        }
        if _cutting(known) == meant:
            return name
    raise _cannot(checkpoint, "it cuts text in a way that has no name there")


def _cutting(document: Json) -> tuple[Any, ...]:
    """Return what decides how text is cut, in one form."""
    pre = document.get("pre_tokenizer") or {"type": "Sequence", "pretokenizers": []}
    steps = pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
    plain = [
        {"use_regex": True, **{key: value for key, value in step.items() if key not in IGNORED}}
        if step["type"] == "ByteLevel"
        else step
        for step in steps
    ]
    ignores = document["model"].get("ignore_merges") or False
    return plain, document.get("normalizer"), ignores


def _meaning(document: Json) -> dict[str, Any]:
    """Return what decides the ids of a text, by what a reader would call it."""
    model, added = document["model"], document.get("added_tokens") or []
    named = {token["content"]: token["id"] for token in added}
    vocabulary = {
        token: token_id
        for token, token_id in model["vocab"].items()
        if token not in named and not token.startswith("[PAD")
    }
    merges = _merges(model)
    if model.get("byte_fallback"):  # of merges that make the same token the order means nothing
        made = dict.fromkeys(left + right for left, right in merges)
        joins: Any = (list(made), set(merges))
    else:
        joins = merges
    return {
        "vocabulary": vocabulary | named,
        "special tokens": {token["content"] for token in added if token.get("special")},
        "list of merges": joins,
        "way of cutting text": _cutting(document),
    }


def _cannot(checkpoint: Checkpoint, why: str) -> WeightsError:
    return WeightsError(
        f"{checkpoint.name}: a GGUF file cannot hold its tokenizer: {why}; give a folder's name as "
        "the target, without .gguf"
    )
