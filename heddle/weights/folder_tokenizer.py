"""The tokenizer, the chat template and the special tokens of a folder, read and written.

Called by `folder`, `native` and `export`. Files:
https://huggingface.co/docs/transformers/main_classes/tokenizer (`tokenizer_config.json`,
`chat_template.jinja`) and https://huggingface.co/docs/tokenizers (`tokenizer.json`).
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from heddle.errors import WeightsError
from heddle.weights.contents import Checkpoint, turn_end_ids
from heddle.weights.fields import Fields, read_json, read_text

TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"


class Speech(NamedTuple):
    """How text becomes tokens, and how a turn begins and ends."""

    tokenizer_json: str
    chat_template: str | None
    bos_id: int | None
    eos_ids: tuple[int, ...]
    add_bos: bool


def read_speech(folder: Path, config: Fields) -> Speech:
    """Read the tokenizer and everything that tells how a conversation begins and ends."""
    document = read_json(folder / TOKENIZER)
    settings = _optional_json(folder / "tokenizer_config.json")
    generation = _optional_json(folder / "generation_config.json")
    ids = _token_ids(folder / TOKENIZER, document)
    bos_id = ids.get(_token_text(settings.get("bos_token")), config.values.get("bos_token_id"))
    if bos_id is None:
        bos_id = generation.get("bos_token_id")
    if bos_id is not None and type(bos_id) is not int:
        raise WeightsError(
            f"{config.path}: field 'bos_token_id' is {str(bos_id)[:60]!r}, not a token id"
        )
    declared = [ids.get(_token_text(settings.get("eos_token")))]
    for file, values in (("config.json", config.values), ("generation_config.json", generation)):
        eos = values.get("eos_token_id")
        listed = eos if isinstance(eos, list) else [eos]
        if not all(token is None or type(token) is int for token in listed):
            raise WeightsError(
                f"{folder / file}: field 'eos_token_id' is {str(eos)[:60]!r}, not token ids"
            )
        declared += listed
    special = {
        token["content"]: token["id"]
        for token in document.get("added_tokens") or []
        if token.get("special")
    }
    return Speech(
        tokenizer_json=read_text(folder / TOKENIZER),
        chat_template=_chat_template(folder, settings),
        bos_id=bos_id,
        eos_ids=turn_end_ids(declared, special),
        add_bos=bos_id is not None
        and (settings.get("add_bos_token") is True or _begins_with_token(folder, document)),
    )


def write_speech(folder: Path, checkpoint: Checkpoint) -> None:
    """Write what `read_speech` reads, as `transformers` does too."""
    texts = {
        token["id"]: token["content"]
        for token in json.loads(checkpoint.tokenizer_json).get("added_tokens") or []
    }
    documents = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": texts.get(checkpoint.bos_id),
            "eos_token": texts.get(checkpoint.eos_ids[0]) if checkpoint.eos_ids else None,
            "add_bos_token": checkpoint.add_bos,
            "model_max_length": checkpoint.config.context_length,
            "clean_up_tokenization_spaces": False,
        },
        "generation_config.json": {
            "bos_token_id": checkpoint.bos_id,
            "eos_token_id": list(checkpoint.eos_ids),
        },
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (folder / TOKENIZER).write_text(checkpoint.tokenizer_json, encoding="utf-8")
    if checkpoint.chat_template is not None:
        (folder / CHAT_TEMPLATE).write_text(checkpoint.chat_template, encoding="utf-8")


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _token_ids(path: Path, document: dict[str, Any]) -> dict[str | None, int]:
    """Return ids by token text: the model's vocabulary and what was added to it."""
    try:
        vocabulary = document["model"]["vocab"]
        ids = dict(vocabulary) if isinstance(vocabulary, dict) else {}
        ids |= {token["content"]: token["id"] for token in document.get("added_tokens") or []}
    except (KeyError, TypeError) as error:
        raise WeightsError(
            f"{path}: fields 'model.vocab' or 'added_tokens' are missing or malformed"
        ) from error
    if not all(type(token_id) is int for token_id in ids.values()):
        raise WeightsError(f"{path}: field 'model.vocab' holds ids that are no whole numbers")
    return ids


def _token_text(token: Any) -> str | None:
    """Return a token given as text or as an object with its text."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _begins_with_token(folder: Path, document: dict[str, Any]) -> bool:
    """Tell whether the tokenizer's own template puts a special token before a text."""
    try:
        processor = document.get("post_processor") or {}
        steps = [processor, *(processor.get("processors") or [])]
        return any(step.get("single") and "SpecialToken" in step["single"][0] for step in steps)
    except (AttributeError, TypeError, LookupError) as error:
        raise WeightsError(
            f"{folder / 'tokenizer.json'}: field 'post_processor' is malformed"
        ) from error


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    file = folder / CHAT_TEMPLATE
    if file.exists():
        return read_text(file)
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name; "default" is the one for conversations
        entries = [entry for entry in template if isinstance(entry, dict)]
        template = next((e.get("template") for e in entries if e.get("name") == "default"), None)
    if template is not None and not isinstance(template, str):
        raise WeightsError(f"{folder / 'tokenizer_config.json'}: field 'chat_template' is not text")
    return template
