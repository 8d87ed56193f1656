"""The chats of JSONL files as a source of documents, tokenised when opened. Called by `sft`.

For more chats than fit in memory, `prepare` writes shards.
"""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from heddle.tasks.rows import read_rows
from heddle.text.chat import ChatFormat
from heddle.train.data.chat import learn_row
from heddle.train.data.document import Document, cluster_number, is_held_out, next_tokens


class ChatDocuments:
    """Chats by number, either those to learn from or those held out."""

    whole = True

    def __init__(
        self,
        files: Sequence[Path],
        chat: ChatFormat,
        *,
        eos_ids: Collection[int],
        held_out_share: float,
        is_validation: bool,
    ):
        """Read all rows. Raises DataError, naming file and row, for one that is not a chat."""
        self._documents: list[Document] = []
        digest = hashlib.sha256()
        for file in files:
            for number, row in enumerate(read_rows(file), 1):
                if is_held_out(row, held_out_share) != is_validation:
                    continue
                where = f"{file}, row {number}"
                cluster = cluster_number(row.get("cluster"), where=where)
                for ids, learned in learn_row(chat, row, eos_ids=eos_ids, where=where):
                    token_N = np.array(ids)
                    target_N = next_tokens(token_N, np.array(learned))
                    self._documents.append(Document(token_N, target_N, cluster))
                    digest.update(token_N.tobytes() + target_N.tobytes() + bytes([cluster + 1]))
        self.fingerprint = digest.hexdigest()

    @property
    def num_documents(self) -> int:
        """How many there are."""
        return len(self._documents)

    def length(self, index: int) -> int:
        """Return a document's number of tokens."""
        return len(self._documents[index].token_N)

    def read(self, index: int) -> Document:
        """Return a document."""
        return self._documents[index]
