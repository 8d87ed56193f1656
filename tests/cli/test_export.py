import json

import pytest
from typer.testing import CliRunner

from heddle.cli.main import app
from heddle.weights.checkpoint import open_checkpoint


def export(*arguments: str) -> dict:
    shown = CliRunner().invoke(app, ["export", *arguments, "--json"])
    assert shown.exit_code == 0, shown.stderr
    return json.loads(shown.stdout)


def test_a_dense_model_in_both_formats(tiny_folder, tmp_path):
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    found = export(str(tiny_folder), "--out", ours, "--shard-mib", "1")
    assert (found["path"], found["name"]) == (ours, "tiny")
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) == 2
    export(ours, "--out", theirs, "--format", "huggingface", "--dtype", "bfloat16")
    assert (tmp_path / "theirs" / "config.json").is_file()
    again = open_checkpoint(tmp_path / "theirs")
    assert again.config == open_checkpoint(tiny_folder).config
    assert again.description.startswith("safetensors bfloat16")


@pytest.fixture
def delta(tiny_folder, tmp_path) -> str:
    folder = tmp_path / "delta"
    made = CliRunner().invoke(app, ["upcycle", str(tiny_folder), "--out", str(folder)])
    assert made.exit_code == 0
    return str(folder)


def test_a_delta_stays_one(delta, tmp_path):
    export(delta, "--out", str(tmp_path / "again"), "--dtype", "bfloat16")
    again, before = (open_checkpoint(tmp_path / name) for name in ("again", "delta"))
    assert again.base == before.base and again.config == before.config
    assert again.size_bytes < before.size_bytes


def test_hugging_face_has_no_form_for_an_adaptive_model(delta, tmp_path):
    arguments = ["export", delta, "--out", str(tmp_path / "out"), "--format", "huggingface"]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1 and "is adaptive" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_a_target_that_exists(tiny_folder, tmp_path):
    refused = CliRunner().invoke(app, ["export", str(tiny_folder), "--out", str(tmp_path)])
    assert refused.exit_code == 1 and "exists already" in refused.stderr
