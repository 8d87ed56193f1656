"""The official OpenAI clients against the real server process.

Each driver is a script that prints a JSON line for every check, so that clients of other versions,
and of other languages, run in processes of their own.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from heddle.server.keys import KeyStore
from tests.serving import ROOT, serving

HERE = Path(__file__).parent
CACHE = ROOT / ".cache"
OPENAI_2 = "openai==2.54.0"
DRIVE_TIMEOUT_S = 300

pytestmark = pytest.mark.timeout(2 * DRIVE_TIMEOUT_S)


@pytest.fixture(scope="session")
def openai_2() -> Path:
    """A folder with the client's last version but one, installed on first use."""
    folder = CACHE / OPENAI_2
    if not folder.exists():
        half = folder.with_suffix(".part")
        shutil.rmtree(half, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(half), OPENAI_2]
        subprocess.run(pip, check=True)
        half.rename(folder)
    return folder


@pytest.fixture(scope="session")
def node() -> str:
    """The Node program, with the client's package installed beside the driver."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("needs Node.js: install Node 20 or later to test the npm client")
    if not (HERE / "node" / "node_modules").exists():
        subprocess.run(
            ["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=HERE / "node", check=True
        )
    return found


def drive(*command: str, python_path: Path | None = None) -> None:
    """Run a driver and fail with the checks that failed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if python_path:
        environment["PYTHONPATH"] = str(python_path)
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=DRIVE_TIMEOUT_S
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    failed = [f"{each['check']}\n{each['error']}" for each in results if not each["ok"]]
    assert results and done.returncode in (0, 1), f"the driver broke: {done.stderr}"
    assert not failed, f"{len(failed)} of {len(results)} checks failed:\n\n" + "\n".join(failed)


@pytest.mark.parametrize("driver", ["openai_sync.py", "openai_async.py"])
def test_python_client_3(server_url, driver):
    drive(sys.executable, str(HERE / driver), f"{server_url}/v1")


@pytest.mark.parametrize("driver", ["openai_sync.py", "openai_async.py"])
def test_python_client_2(server_url, driver, openai_2):
    drive(sys.executable, str(HERE / driver), f"{server_url}/v1", python_path=openai_2)


def test_node_client(server_url, node):
    drive(node, str(HERE / "node" / "openai_node.mjs"), f"{server_url}/v1")


def test_python_client_with_keys(tiny_folder, tmp_path):
    key = KeyStore(tmp_path / "keys.sqlite").create("conformance")
    limits = ["--keys", "--requests-per-minute", "20", "--threads", "1"]
    with serving(str(tiny_folder), *limits, data=tmp_path) as url:
        drive(sys.executable, str(HERE / "openai_access.py"), f"{url}/v1", key)
