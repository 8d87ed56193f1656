"""Text files to shards, for any tokenizer. Called by recipes and the command line.

Files are `.jsonl` (also packed: .gz, .xz, .zst) or plain text. A row of `text` becomes a document;
a row of `messages`, or of `prompt` and `answer`, becomes a chat. Optional fields of a row:
`source`, `licence`, `cluster`.
"""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from heddle.errors import ConfigError, DataError, RequestError
from heddle.tasks.rows import read_lines, read_rows
from heddle.text.chat import ChatFormat
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.chat import learn_row
from heddle.train.data.document import Tokens, cluster_number, is_held_out
from heddle.train.data.shard_writer import SHARD_TOKENS, ShardWriter
from heddle.train.data.shards import Manifest
from heddle.train.data.vocabulary import END_TOKEN
from heddle.weights.atomic import new_folder

_PIECE_CHARACTERS = 1 << 15  # plain text has no rows: a document is about this much of it
_ROWS_A_TASK = 64


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How to turn text into shards.

    Attributes:
        kind: "text" learns every token, "chat" the assistant's turns alone.
        end_token: the control token that ends a document of text.
        eos_tokens: the control tokens that end a turn of a chat.
        template: the chat template; None for the default.
        validation_share: of all documents, chosen by their hash.
        source, licence: for rows, and plain text, that do not say.
        shard_tokens: after how many tokens a new shard begins.
        num_processes: that tokenise side by side.
    """

    kind: Literal["text", "chat"] = "text"
    end_token: str = END_TOKEN
    eos_tokens: tuple[str, ...] = ("<|im_end|>",)
    template: str | None = None
    validation_share: float = 0.005
    source: str = "unknown"
    licence: str = "unknown"
    shard_tokens: int = SHARD_TOKENS
    num_processes: int = 1

    def __post_init__(self):
        if not 0 <= self.validation_share < 1:
            raise ConfigError(
                f"validation_share must be from 0 to below 1, not {self.validation_share}"
            )
        if self.shard_tokens < 1 or self.num_processes < 1:
            raise ConfigError(
                f"shard_tokens and num_processes must be positive, not {self.shard_tokens} and "
                f"{self.num_processes}"
            )


class Progress(NamedTuple):
    """How far `prepare` is: the file being read, and totals over all files so far."""

    file: Path
    num_documents: int
    num_tokens: int


class Prepared(NamedTuple):
    """What `prepare` wrote: two folders' manifests; no validation if no document fell there."""

    train: Manifest
    validation: Manifest | None


class _Row(NamedTuple):
    where: str
    fields: dict[str, Any]


class _Encoded(NamedTuple):
    token_N: Tokens
    trained_N: Tokens | None
    cluster: int
    source: str
    licence: str
    is_validation: bool


def prepare(
    files: Sequence[Path],
    out: Path,
    *,
    tokenizer_json: str,
    config: PrepareConfig,
    on_progress: Callable[[Progress], None] | None = None,
) -> Prepared:
    """Write `out/train` and, if any document falls there, `out/validation`.

    A document's hash decides its side, so equal documents share one, whatever the order of files.
    `out` appears whole or not at all. Raises DataError for unreadable rows and for an empty corpus,
    ConfigError for control tokens that the tokenizer lacks, StorageError when writing fails.
    """
    if out.exists():
        raise DataError(f"{out} exists already: choose another folder, or remove it")
    encoder = _Encoder(tokenizer_json, config)
    with new_folder(out) as folder, ExitStack() as stack:
        encode = _encode_with(encoder, stack)
        writers = {side: _writer(folder / side, encoder) for side in ("train", "validation")}
        num_documents = num_tokens = 0
        for file in files:
            for encoded in encode(_rows(file, config)):
                side = "validation" if encoded.is_validation else "train"
                writers[side].add(
                    encoded.token_N,
                    cluster=encoded.cluster,
                    source=encoded.source,
                    licence=encoded.licence,
                    trained_N=encoded.trained_N,
                )
                num_documents += 1
                num_tokens += len(encoded.token_N)
                if on_progress and num_documents % _ROWS_A_TASK == 0:
                    on_progress(Progress(file, num_documents, num_tokens))
            if on_progress:
                on_progress(Progress(file, num_documents, num_tokens))
        train, validation = (writers[side].finish() for side in ("train", "validation"))
        if not train.num_documents:
            raise DataError(
                f"no documents to train on in {', '.join(map(str, files)) or 'no file'}"
            )
        if not validation.num_documents:
            for path in (folder / "validation").iterdir():
                path.unlink()
            (folder / "validation").rmdir()
    return Prepared(train, validation if validation.num_documents else None)


class _Encoder:
    """Rows to tokens; one in each process."""

    def __init__(self, tokenizer_json: str, config: PrepareConfig):
        self.config = config
        self.tokenizer = Tokenizer(tokenizer_json)
        self.end_id = self._control_id("end_token", config.end_token)
        self._chat: ChatFormat | None = None
        if config.kind == "chat":
            self._eos_ids = tuple(
                self._control_id("eos_tokens", name) for name in config.eos_tokens
            )
            self._chat = ChatFormat(
                config.template, self.tokenizer, bos_id=None, eos_ids=self._eos_ids
            )

    def encode(self, rows: Sequence[_Row]) -> list[_Encoded]:
        """Return the rows' documents, in order."""
        return [document for row in rows for document in self._encode(row)]

    def _encode(self, row: _Row) -> Iterator[_Encoded]:
        is_validation = is_held_out(row.fields, self.config.validation_share)
        for token_N, trained_N in self._documents(row):
            yield _Encoded(
                token_N,
                trained_N,
                cluster_number(row.fields.get("cluster"), where=row.where),
                str(row.fields.get("source") or self.config.source),
                str(row.fields.get("licence") or self.config.licence),
                is_validation,
            )

    def _documents(self, row: _Row) -> list[tuple[Tokens, Tokens | None]]:
        if self._chat is not None:
            learned = learn_row(self._chat, row.fields, eos_ids=self._eos_ids, where=row.where)
            return [(np.array(ids), np.array(trained)) for ids, trained in learned]
        text = row.fields.get("text")
        if not isinstance(text, str) or not text:
            raise DataError(f"{row.where}: text is missing or empty")
        try:
            return [(np.array([*self.tokenizer.encode(text), self.end_id]), None)]
        except RequestError as error:
            raise DataError(f"{row.where}: {error}") from error

    def _control_id(self, field: str, token: str) -> int:
        if token not in self.tokenizer.control_tokens:
            known = ", ".join(self.tokenizer.control_tokens) or "none"
            raise ConfigError(
                f"{field}: the tokenizer has no control token {token!r} (it has {known})"
            )
        return self.tokenizer.control_tokens[token]


_Encode = Callable[[Iterable[_Row]], Iterator[_Encoded]]
_in_process: list[_Encoder] = []  # a worker's own encoder, made once by `_start_worker`


def _start_worker(tokenizer_json: str, config: PrepareConfig) -> None:
    _in_process.append(_Encoder(tokenizer_json, config))


def _encode_in_worker(rows: list[_Row]) -> list[_Encoded]:
    return _in_process[0].encode(rows)


def _encode_with(encoder: _Encoder, stack: ExitStack) -> _Encode:
    num_processes = encoder.config.num_processes
    if num_processes == 1:
        return lambda rows: (document for row in rows for document in encoder.encode([row]))
    pool = stack.enter_context(
        ProcessPoolExecutor(
            num_processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(encoder.tokenizer.json, encoder.config),
        )
    )
    stack.callback(pool.shutdown, wait=False, cancel_futures=True)
    return partial(_encode_side_by_side, pool, 2 * num_processes)


def _encode_side_by_side(
    pool: ProcessPoolExecutor, num_ahead: int, rows: Iterable[_Row]
) -> Iterator[_Encoded]:
    """Yield the documents in the rows' order, with at most `num_ahead` batches under way."""
    under_way: deque[Future[list[_Encoded]]] = deque()
    unread = iter(rows)
    while True:
        while len(under_way) < num_ahead and (batch := list(islice(unread, _ROWS_A_TASK))):
            under_way.append(pool.submit(_encode_in_worker, batch))
        if not under_way:
            return
        yield from under_way.popleft().result()


def _writer(folder: Path, encoder: _Encoder) -> ShardWriter:
    folder.mkdir()
    return ShardWriter(
        folder,
        encoder.tokenizer.json,
        vocab_size=encoder.tokenizer.size,
        end_id=encoder.end_id,
        whole=encoder.config.kind == "chat",
        shard_tokens=encoder.config.shard_tokens,
    )


def _rows(file: Path, config: PrepareConfig) -> Iterator[_Row]:
    if ".jsonl" in file.suffixes:
        for number, fields in enumerate(read_rows(file), 1):
            yield _Row(f"{file}, row {number}", fields)
    elif config.kind == "chat":
        raise DataError(f"{file} is not .jsonl: chats are read from rows")
    else:
        for number, text in enumerate(_pieces(file), 1):
            yield _Row(f"{file}, piece {number}", {"text": text})


def _pieces(file: Path) -> Iterator[str]:
    """Yield plain text in pieces that end at blank lines, or at a line's end if none comes."""
    lines: list[str] = []
    size = 0
    for line in read_lines(file):
        lines.append(line)
        size += len(line)
        is_end = size >= _PIECE_CHARACTERS and not line.strip()
        if is_end or size >= 2 * _PIECE_CHARACTERS:
            yield "".join(lines)
            lines, size = [], 0
    if "".join(lines).strip():
        yield "".join(lines)
