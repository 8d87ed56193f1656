import json

from typer.testing import CliRunner

from heddle.cli.main import app


def test_upcycle_makes_a_delta(tiny_folder, tmp_path):
    out = tmp_path / "delta"
    shown = CliRunner().invoke(app, ["upcycle", str(tiny_folder), "--out", str(out), "--json"])
    found = json.loads(shown.stdout)
    assert found["path"] == str(out)
    assert (found["first_thinking_layer"], found["last_thinking_layer"]) == (1, 1)
    assert (out / "delta.json").is_file()
    again = CliRunner().invoke(app, ["upcycle", str(tiny_folder), "--out", str(out)])
    assert again.exit_code == 1 and "exists already" in again.stderr


def test_an_upcycled_model_is_not_served_yet_and_says_so(tiny_folder, tmp_path):
    out = tmp_path / "delta"
    CliRunner().invoke(app, ["upcycle", str(tiny_folder), "--out", str(out)])
    refused = CliRunner().invoke(app, ["serve", str(out), "--port", "0"])
    assert refused.exit_code == 1 and "adaptive" in refused.stderr
