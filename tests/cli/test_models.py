import json

from typer.testing import CliRunner

from heddle.cli.main import app


def test_pull_of_a_folder_checks_it(tiny_folder):
    shown = CliRunner().invoke(app, ["pull", str(tiny_folder), "--json"])
    found = json.loads(shown.stdout)
    assert found["path"] == str(tiny_folder)
    assert "parameters" in found["description"]


def test_pull_of_a_broken_file_is_an_error(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and nothing more")
    failed = CliRunner().invoke(app, ["pull", str(broken)])
    assert failed.exit_code == 1 and failed.stderr.startswith("Error: ")


def test_an_empty_cache(tmp_path):
    runner = CliRunner(env={"HEDDLE_CACHE": str(tmp_path)})
    assert json.loads(runner.invoke(app, ["models", "--json"]).stdout) == []
    assert "heddle pull" in runner.invoke(app, ["models"]).stdout
