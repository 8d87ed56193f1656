"""A real server process, a real browser, and a page whose every misstep is recorded."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.browser.watched import Watched

ROOT = Path(__file__).parent.parent.parent
NO_BROWSER = (
    "The browser tests need Chromium: install it with your system's packages "
    "(Debian: sudo apt-get install chromium), or name its program in HEDDLE_CHROMIUM."
)
# Nothing but the page may use the network.
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


class ServerProcess:
    """`heddle serve` on one port, to be killed and started again."""

    def __init__(self, *arguments: str, data: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._arguments = arguments
        self._environment = {**os.environ, "HEDDLE_DATA": str(data), "OMP_NUM_THREADS": "1"}
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start, and wait until it is ready."""
        command = [sys.executable, "-m", "heddle", "serve", *self._arguments, "--threads", "1"]
        self._process = subprocess.Popen(
            [*command, "--port", str(self._port)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self._environment,
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line.startswith("Heddle is ready: "), f"the server did not start: {line!r}"

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal and wait for the end."""
        if self._process is None:
            return
        with self._process as process:
            process.send_signal(number)
            process.wait(30)
        self._process = None


@pytest.fixture(scope="module")
def server(wordy_folder, tmp_path_factory) -> Iterator[ServerProcess]:
    process = ServerProcess(str(wordy_folder), data=tmp_path_factory.mktemp("data"))
    process.start()
    yield process
    process.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for the session: Playwright leaves an event loop running in this thread.
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("HEDDLE_CHROMIUM") or next(
        filter(None, map(shutil.which, names)), None
    )
    if program is None:
        pytest.fail(NO_BROWSER, pytrace=False)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def new_context(browser) -> Iterator[Callable[..., BrowserContext]]:
    contexts: list[BrowserContext] = []

    def make(**settings) -> BrowserContext:
        contexts.append(
            browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | settings))
        )
        contexts[-1].set_default_timeout(15_000)
        return contexts[-1]

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def open_page(server, new_context) -> Iterator[Callable[..., Page]]:
    """Open the chat page; afterwards it must have logged no error and asked no other host."""
    watched: list[Watched] = []

    def make(context: BrowserContext | None = None, *, url: str = server.url, **settings) -> Page:
        page = (context or new_context(**settings)).new_page()
        watched.append(Watched(page, url))
        page.goto(url)
        return page

    yield make
    for each in watched:
        each.check()
