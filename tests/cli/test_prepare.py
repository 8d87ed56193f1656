import json

from typer.testing import CliRunner

from heddle.cli.main import app
from heddle.train.data.shards import Shards


def prepare(*arguments):
    return CliRunner().invoke(app, ["prepare", *map(str, arguments)])


def test_text_becomes_shards_of_the_models_tokens(tiny_folder, tmp_path):
    rows = [{"text": f"The loom holds warp {number}.", "cluster": "factual"} for number in range(9)]
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    out = tmp_path / "shards"
    shown = prepare(text, "--out", out, "--model", tiny_folder, "--licence", "CC0-1.0", "--json")
    found = json.loads(shown.stdout)
    assert found["num_documents"] + found["num_validation_documents"] == 9
    shards = Shards(out / "train")
    assert shards.manifest.num_tokens == found["num_tokens"]
    assert shards.manifest.sources["unknown"]["licence"] == "CC0-1.0"
    again = prepare(text, "--out", out, "--model", tiny_folder)
    assert again.exit_code == 1 and "exists already" in again.stderr


def test_chats_are_written_with_the_models_template(tiny_folder, tmp_path):
    chats = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The loom."}]
    chats.write_text(json.dumps({"messages": turns}), encoding="utf-8")
    out = tmp_path / "shards"
    shown = prepare(chats, "--out", out, "--model", tiny_folder, "--kind", "chat")
    assert shown.exit_code == 0 and "1 documents to learn from" in shown.stderr
    assert Shards(out / "train").manifest.whole


def test_a_missing_file_is_named(tmp_path):
    shown = prepare(tmp_path / "none.txt", "--out", tmp_path / "out")
    assert shown.exit_code == 2 and "none.txt" in shown.stderr
