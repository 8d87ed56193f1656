import json

from typer.testing import CliRunner

from heddle.cli.main import app


def test_upcycle_makes_a_delta(tiny_folder, tmp_path):
    out = tmp_path / "delta"
    shown = CliRunner().invoke(app, ["upcycle", str(tiny_folder), "--out", str(out), "--json"])
    found = json.loads(shown.stdout)
    assert found["path"] == str(out)
    assert (found["first_thinking_layer"], found["last_thinking_layer"]) == (1, 1)
    assert (out / "model.json").is_file()
    again = CliRunner().invoke(app, ["upcycle", str(tiny_folder), "--out", str(out)])
    assert again.exit_code == 1 and "exists already" in again.stderr


def test_upcycle_without_experts(tiny_folder, tmp_path):
    out = tmp_path / "delta"
    command = ["upcycle", str(tiny_folder), "--out", str(out), "--no-fabric", "--max-loops"]
    shown = CliRunner().invoke(app, [*command, "33"])
    assert shown.exit_code == 1 and "max_loops must lie between 1 and 32" in shown.stderr
    shown = CliRunner().invoke(app, [*command, "1"])
    assert shown.exit_code == 1 and "from its second loop on" in shown.stderr
    assert CliRunner().invoke(app, [*command, "4"]).exit_code == 0
    config = json.loads((out / "model.json").read_text(encoding="utf-8"))["config"]
    assert config["fabric"] is None
    assert (config["think"]["first_layer"], config["think"]["max_loops"]) == (1, 4)
