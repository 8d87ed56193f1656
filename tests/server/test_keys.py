"""The key file by itself: errors, concurrency, processes that die."""

import hashlib
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from heddle.errors import RequestError, StorageError
from heddle.server.dial import ANYTHING, Bounds
from heddle.server.keys import KeyStore

CREATE_UNTIL_KILLED = """
import sys
from pathlib import Path
from heddle.server.keys import KeyStore
store = KeyStore(Path(sys.argv[1]))
while True:
    sys.stdout.write(store.create("x") + "\\n")
    sys.stdout.flush()
"""


def test_revoking_what_is_not_there(tmp_path):
    store = KeyStore(tmp_path / "keys.sqlite")
    with pytest.raises(RequestError, match="heddle keys list"):
        store.revoke("key_none")
    store.create("x")
    (record,) = store.list()
    store.revoke(record.id)
    with pytest.raises(RequestError):
        store.revoke(record.id)
    assert store.list()[0].revoked_at is not None


def test_a_file_without_bounds_takes_them(tmp_path):
    path = tmp_path / "keys.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE keys (id TEXT PRIMARY KEY, name TEXT NOT NULL, digest BLOB NOT NULL "
            "UNIQUE, created_at REAL NOT NULL, revoked_at REAL) STRICT"
        )
        digest = hashlib.sha256(b"hdl-old").digest()
        database.execute("INSERT INTO keys VALUES ('key_old', 'old', ?, 1.0, NULL)", [digest])
    store = KeyStore(path)
    assert store.check("hdl-old").bounds == ANYTHING
    narrow = Bounds(max_loops=4, steer=0.5, max_open_tokens=100)
    assert store.check(store.create("new", narrow)).bounds == narrow
    assert [record.bounds for record in KeyStore(path).list()] == [ANYTHING, narrow]


def test_asking_makes_no_file(tmp_path):
    store = KeyStore(tmp_path / "keys.sqlite")
    assert store.check("hdl-x") is None and store.list() == []
    assert not store.path.exists()


def test_unusable_file_is_one_clear_sentence(tmp_path):
    path = tmp_path / "keys.sqlite"
    path.write_bytes(b"this is not a database, it is a letter" * 100)
    with pytest.raises(StorageError, match="keys.sqlite"):
        KeyStore(path).check("hdl-x")
    with pytest.raises(StorageError, match="file"):
        KeyStore(path / "below" / "a-file").create("x")


def test_kill_minus_9_while_writing_loses_no_key(tmp_path):
    path = tmp_path / "keys.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", CREATE_UNTIL_KILLED, str(path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        shown = [process.stdout.readline().strip() for _ in range(5)]
        process.kill()
    store = KeyStore(path)
    assert all(store.check(secret) for secret in shown)
    assert store.check(store.create("after"))
