import socket

import httpx
from typer.testing import CliRunner

from heddle.cli.main import app
from tests.serving import serving


def test_a_port_in_use_is_one_sentence(tiny_folder):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        failed = CliRunner().invoke(app, ["serve", str(tiny_folder), "--port", str(port)])
    assert failed.exit_code == 1
    (line,) = failed.stderr.strip().splitlines()
    assert line.startswith("Error: ") and str(port) in line and "--port" in line


def test_bad_settings_are_one_sentence(tiny_folder):
    failed = CliRunner().invoke(app, ["serve", str(tiny_folder), "--allowed-origin", "*"])
    assert failed.exit_code == 1 and failed.stderr.startswith("Error: ")


def test_a_dense_model_cannot_think_by_default(tiny_folder):
    arguments = ["serve", str(tiny_folder), "--port", "0", "--think"]
    for wanted, words in (
        ("2", "think cannot be 2: tiny has no think dial"),
        ("deep", "auto or a number"),
    ):
        failed = CliRunner().invoke(app, [*arguments, wanted])
        assert failed.exit_code == 1 and words in failed.stderr


def test_ready_means_ready_and_sigterm_ends_it(tiny_folder, tmp_path):
    with serving(str(tiny_folder), data=tmp_path) as url:  # which checks the exit status
        assert httpx.get(f"{url}/ready", trust_env=False).status_code == 200
