import json

import pytest
from typer.testing import CliRunner

from heddle.cli.main import app
from heddle.server.dial import Bounds
from heddle.server.keys import KeyStore


@pytest.fixture
def heddle(tmp_path):
    runner = CliRunner(env={"HEDDLE_DATA": str(tmp_path)})
    return lambda *arguments: runner.invoke(app, ["keys", *arguments])


def test_a_key_works_until_it_is_revoked(heddle, tmp_path):
    secret = heddle("create", "laptop").stdout.strip()
    store = KeyStore(tmp_path / "keys.sqlite")
    id = store.check(secret).id
    assert [each["id"] for each in json.loads(heddle("list", "--json").stdout)] == [id]
    assert heddle("revoke", id).exit_code == 0
    assert store.check(secret) is None
    assert "revoked" in heddle("list").stdout


def test_json_of_create_holds_name_and_key(heddle):
    made = json.loads(heddle("create", "laptop", "--json").stdout)
    assert made["name"] == "laptop" and made["key"].startswith("hdl-")


def test_a_key_keeps_its_bounds(heddle, tmp_path):
    bounds = ("--max-loops", "4", "--steer-bound", "0.5", "--max-open-tokens", "9000")
    secret = heddle("create", "intern", *bounds).stdout.strip()
    kept = Bounds(max_loops=4, steer=0.5, max_open_tokens=9000)
    assert KeyStore(tmp_path / "keys.sqlite").check(secret).bounds == kept
    (listed,) = json.loads(heddle("list", "--json").stdout)
    assert (listed["max_loops"], listed["steer_bound"], listed["max_open_tokens"]) == (4, 0.5, 9000)
    shown = heddle("list").stdout
    assert "±0.5" in shown and "9000" in shown


def test_an_unknown_id_is_an_error(heddle):
    failed = heddle("revoke", "key_none")
    assert failed.exit_code == 1 and "key_none" in failed.stderr


def test_no_keys_yet(heddle):
    assert "keys create" in heddle("list").stdout
