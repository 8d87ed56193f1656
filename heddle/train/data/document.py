"""One document's tokens and targets: what every source gives and the packer packs."""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heddle.errors import DataError
from heddle.model.config import CLUSTERS
from heddle.tasks.task import Example
from heddle.text.tokenizer import Tokenizer

IGNORED = -100  # a target that no token is scored on, as in torch.nn.functional.cross_entropy
NO_CLUSTER = -1

_NUM_HASHES = 1_000_000

Tokens = NDArray[np.int64]


class Document(NamedTuple):
    """N tokens, what to predict at each (`IGNORED`: nothing), and the place in `CLUSTERS`."""

    token_N: Tokens
    target_N: Tokens
    cluster: int


def is_held_out(row: Mapping[str, Any], share: float) -> bool:
    """Say whether a row is for validation: equal ones agree, by the hash of what they ask."""
    identity = str(row.get("text") or row.get("prompt") or row)
    digest = blake2b(identity.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % _NUM_HASHES < share * _NUM_HASHES


def cluster_number(name: str | None, *, where: str) -> int:
    """Return a cluster's place in `CLUSTERS`, -1 for None. Raises DataError for unknown names."""
    if name is None:
        return NO_CLUSTER
    if name not in CLUSTERS:
        raise DataError(f"{where}: cluster must be one of {', '.join(CLUSTERS)}, not {name!r}")
    return CLUSTERS.index(name)


def next_tokens(token_N: Tokens, trained_N: NDArray[np.bool_] | None = None) -> Tokens:
    """Return each token's successor as its target, where the successor is to be learned."""
    target_N = np.full_like(token_N, IGNORED)
    target_N[:-1] = token_N[1:]
    if trained_N is not None:
        target_N[:-1][~trained_N[1:]] = IGNORED
    return target_N


def encode_example(
    example: Example,
    tokenizer: Tokenizer,
    *,
    end_id: int,
    cluster: int = NO_CLUSTER,
    dense: bool = False,
) -> Document:
    """Return a task's example as prompt, answer and end, of which only the last two are learned.

    With `dense` the example's labels are learned too: the model must know label i once it has read
    the prompt up to label i's offset. The prompt is then cut after each offset before it is
    encoded, so that the label has a token of its own to stand at.
    """
    cuts = [0, *(offset + 1 for offset, _ in example.labels if dense), len(example.prompt)]
    pieces = [example.prompt[start:end] for start, end in pairwise(cuts)]
    piece_ids = [_encode_piece(tokenizer, piece) for piece in pieces]
    prompt = list(chain.from_iterable(piece_ids))
    answer = tokenizer.encode(_answer(example))
    token_N = np.array([*prompt, *answer, end_id])
    trained_N = np.arange(len(token_N)) >= len(prompt)
    target_N = next_tokens(token_N, trained_N)
    if dense:
        ends = np.cumsum([len(ids) for ids in piece_ids]) - 1
        for end, (_, label) in zip(ends, example.labels, strict=False):
            target_N[end] = _label_id(label, tokenizer)
    return Document(token_N, target_N, cluster)


def _answer(example: Example) -> str:
    if example.reasoning:
        return f"{example.reasoning}\nAnswer: {example.answer}"
    return example.answer


@lru_cache(maxsize=1 << 12)
def _encode_piece(tokenizer: Tokenizer, piece: str) -> list[int]:
    return tokenizer.encode(piece)  # dense prompts are one letter a piece, the same few ever again


def _label_id(label: str, tokenizer: Tokenizer) -> int:
    ids = _encode_piece(tokenizer, label)
    if len(ids) != 1:
        raise DataError(f"label {label!r} is {len(ids)} tokens in this tokenizer; it must be one")
    return ids[0]
