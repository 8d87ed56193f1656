import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from heddle.cli.conversation import SETTINGS
from tests.adaptive import save_adaptive
from tests.serving import ROOT, serving

ANSWER_TIMEOUT_S = 30
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def heddle(*arguments: str, input: str | None = None) -> str:
    command = [sys.executable, "-m", "heddle", *arguments]
    done = subprocess.run(
        command, input=input, capture_output=True, text=True, cwd=ROOT, check=True
    )
    return done.stdout


def test_run_in_process_and_by_url_agree(tiny_folder, server_url):
    options = ["--temperature", "0", "--max-tokens", "8"]
    alone = heddle("run", str(tiny_folder), "Hello", "--threads", "1", *options)
    served = heddle("run", "tiny", "-", "--url", server_url, *options, input="Hello")
    assert alone == served != "\n"


def test_run_as_json(server_url):
    options = ["--max-tokens", "4", "--seed", "1", "--system", "Be brief."]
    found = json.loads(heddle("run", "tiny", "Hello", "--url", server_url, "--json", *options))
    assert found["finish_reason"] == "length"
    assert found["usage"]["num_new_tokens"] == 4
    assert found["model"] == "tiny" and found["timings"]["tokens_per_s"] > 0


def test_run_passes_the_dials_on(tmp_path):
    folder = save_adaptive(tmp_path / "model")
    options = ["--threads", "1", "--max-tokens", "4", "--json"]
    found = json.loads(heddle("run", str(folder), "Hello", "--think", "3", *options))
    assert found["usage"]["compute"]["mean_loops"] == 3
    steered = json.loads(heddle("run", str(folder), "Hello", "--alignment", "-1", *options))
    assert steered["usage"]["compute"]["mean_loops"] == 1 and steered["text"] != found["text"]


def test_chat_answers_a_pipe_line_by_line(server_url):
    shown = heddle(
        "chat", "--url", server_url, "--max-tokens", "4", input="Hello\n\n/set\n/quit\nMore\n"
    )
    lines = shown.splitlines()
    assert any(re.fullmatch(r"max_tokens +4", line) for line in lines)
    assert lines[-1].startswith(list(SETTINGS)[-1]), "nothing is answered after /quit"


class Terminal:
    """`heddle chat` in a pseudo-terminal: what a person sees and types."""

    def __init__(self, *arguments: str, data: str):
        environment = {
            **os.environ,
            "HEDDLE_DATA": data,
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",
        }
        self._ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "heddle", "chat", *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def wait_for(self, text: str) -> None:
        """Read until `text` has appeared since the last call."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while text not in self.seen:
            assert time.monotonic() < deadline, f"waited for {text!r}, saw {self.seen!r}"
            if select.select([self._ours], [], [], 0.2)[0]:
                self.seen += os.read(self._ours, 65536).decode(errors="replace")
                self.seen = ESCAPE.sub("", self.seen)
        self.seen = self.seen.partition(text)[2]

    def say(self, keys: str) -> None:
        """Type once the prompt is there."""
        self.wait_for("Message, or /help")
        os.write(self._ours, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def terminal(wordy_folder, tmp_path):
    with serving(str(wordy_folder), "--threads", "1", data=tmp_path) as url:
        shown = Terminal(
            "--url", url, "--max-tokens", "3900", "--temperature", "0", data=str(tmp_path)
        )
        yield shown
        shown.close()


def test_chat_in_a_terminal(terminal):
    terminal.say("/set max_tokens 5\r")
    terminal.wait_for("max_tokens is 5.")
    terminal.say("Hello\r")
    terminal.wait_for("5 tokens · ")
    terminal.say("/set max_tokens warm\r")
    terminal.wait_for("Error: max_tokens must be a number")
    terminal.say("/quit\r")
    assert terminal.process.wait(20) == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal):
    terminal.say("/set min_p 0\r")
    terminal.wait_for("min_p is 0")
    terminal.say("Tell me everything.\r")
    terminal.wait_for("everything.")
    time.sleep(0.3)
    os.kill(terminal.process.pid, signal.SIGINT)
    terminal.wait_for("stopped")
    terminal.say("/new\r")
    terminal.wait_for("A new conversation.")
    terminal.say("\x04")
    assert terminal.process.wait(20) == 0
