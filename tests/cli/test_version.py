import json

from typer.testing import CliRunner

import heddle
from heddle.cli.main import app


def test_version_as_json(tmp_path):
    runner = CliRunner(env={"HEDDLE_CACHE": str(tmp_path)})
    found = json.loads(runner.invoke(app, ["version", "--json"]).stdout)
    assert found["heddle"] == heddle.__version__
    assert found["cache"] == str(tmp_path)
    assert found["threads"] >= 1 and "torch" in found["packages"]


def test_version_as_table():
    shown = CliRunner().invoke(app, ["version"]).stdout
    assert heddle.__version__ in shown and "torch" in shown
