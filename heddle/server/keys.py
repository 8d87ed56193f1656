"""API keys at rest: `heddle keys` makes and revokes them, `gate` checks them.

A key is `hdl-` and 40 random letters and digits, 238 bits, so guessing is out of reach and one
SHA-256 is enough at rest: slow hashes protect secrets that people choose. The key itself is shown
once and never kept. SQLite makes each change atomic, also under `kill -9` and while the server and
`heddle keys` run together.
"""

import hashlib
import hmac
import os
import secrets
import sqlite3
import string
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heddle.errors import RequestError, StorageError
from heddle.server.dial import ANYTHING, MAX_STEER, Bounds

PREFIX = "hdl-"
ALPHABET = string.ascii_letters + string.digits
NUM_RANDOM = 40
COLUMNS = "id, name, created_at, revoked_at, max_loops, steer_bound, max_open_tokens"
# Each makes a file of the version before it the next one; `user_version` counts them.
VERSIONS = (
    """
    CREATE TABLE IF NOT EXISTS keys (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, digest BLOB NOT NULL UNIQUE,
        created_at REAL NOT NULL, revoked_at REAL
    ) STRICT
    """,
    "ALTER TABLE keys ADD COLUMN max_loops INTEGER",
    f"ALTER TABLE keys ADD COLUMN steer_bound REAL NOT NULL DEFAULT {MAX_STEER}",
    "ALTER TABLE keys ADD COLUMN max_open_tokens INTEGER",
)


@dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """What is known of a key; times are seconds since 1970, the bounds those of `dial.Bounds`."""

    id: str
    name: str
    created_at: float
    revoked_at: float | None
    max_loops: int | None
    steer_bound: float
    max_open_tokens: int | None

    @property
    def bounds(self) -> Bounds:
        """What its holder may ask for."""
        return Bounds(
            max_loops=self.max_loops,
            steer=self.steer_bound,
            max_open_tokens=self.max_open_tokens,
        )


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _record(row: Sequence[Any]) -> KeyRecord:
    return KeyRecord(**dict(zip(COLUMNS.split(", "), row, strict=True)))


def _bring_up_to_date(database: sqlite3.Connection) -> None:
    if _version(database) < len(VERSIONS):
        database.execute("BEGIN IMMEDIATE")
        for statement in VERSIONS[_version(database) :]:
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {len(VERSIONS)}")
        database.commit()


def _version(database: sqlite3.Connection) -> int:
    return database.execute("PRAGMA user_version").fetchone()[0]


class KeyStore:
    """The keys of one server, in a file that only its owner may read."""

    def __init__(self, path: Path):
        self.path = path

    def create(self, name: str, bounds: Bounds = ANYTHING) -> str:
        """Make a key and return its secret, which cannot be read again."""
        secret = PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(NUM_RANDOM))
        row = (f"key_{secrets.token_hex(4)}", name, _digest(secret), time.time())
        with self._open() as database:
            database.execute(
                "INSERT INTO keys VALUES (?, ?, ?, ?, NULL, ?, ?, ?)",
                (*row, bounds.max_loops, bounds.steer, bounds.max_open_tokens),
            )
        return secret

    def list(self) -> list[KeyRecord]:
        """Return every key made so far, revoked ones too, oldest first."""
        if not self.path.exists():
            return []
        with self._open() as database:
            rows = database.execute(f"SELECT {COLUMNS} FROM keys ORDER BY created_at")
            return [_record(row) for row in rows]

    def revoke(self, id: str) -> None:
        """Make a key worthless from now on; raise RequestError when there is no such key."""
        with self._open() as database:
            changed = database.execute(
                "UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
                (time.time(), id),
            ).rowcount
        if not changed:
            raise RequestError(
                f"no working key has the id {id!r}: `heddle keys list` shows the ids"
            )

    def check(self, secret: str) -> KeyRecord | None:
        """Return the key's record, None if unknown or revoked; the time taken tells nothing."""
        if not self.path.exists():
            return None
        digest, found = _digest(secret), None
        with self._open() as database:
            for known, *row in database.execute(
                f"SELECT digest, {COLUMNS} FROM keys WHERE revoked_at IS NULL"
            ):
                if hmac.compare_digest(digest, known):
                    found = _record(row)
        return found

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            with closing(sqlite3.connect(self.path, timeout=5)) as database, database:
                _bring_up_to_date(database)
                yield database
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"the key file {self.path} cannot be used: {error}") from error
