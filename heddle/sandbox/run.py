"""Running a program that a model wrote, and seeing what came of it. Used by tasks that run code.

What the program may not do: use the network, start other processes or signal them, read files but
Python's own and the system's libraries, write outside an empty folder that is deleted afterwards,
see this process's environment, or take more than its limits. It has the standard library alone.

What this is not: a boundary against someone who attacks the kernel, or who uses a system call that
nobody thought of. Files in the folder are limited one by one, not in sum. Where the system lacks
Landlock (Linux 5.13) or seccomp, as macOS does, files, network and processes are not withheld:
each outcome says so, and it is logged once. Run strangers' code in a virtual machine.
"""

import functools
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Literal, NamedTuple

from heddle.errors import ConfigError

log = logging.getLogger(__name__)

_CHILD = Path(__file__).parent / "child.py"
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a program may take; `wall_s` is time on the clock, `cpu_s` that of all its threads."""

    wall_s: int = 15
    cpu_s: int = 10
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    num_open_files: int = 64
    output_bytes: int = 1 << 16

    def __post_init__(self):
        for each in fields(self):
            if getattr(self, each.name) < 1:
                raise ConfigError(f"a sandbox's {each.name} must be at least 1")


class Outcome(NamedTuple):
    """What came of a program.

    Attributes:
        has_finished: whether it ran to its end, without an error, an exit or a limit.
        output: what it wrote to standard output and error, as it came.
        exit_code: negative for the signal that ended it.
        stopped_by: the limit upon which it was stopped from here, if one was.
        not_withheld: of "files", "memory", "network" and "processes" what this system could not
            keep from it.
    """

    has_finished: bool
    output: str
    exit_code: int
    stopped_by: Literal["time", "output"] | None
    not_withheld: tuple[str, ...]


def run_python(source: str, limits: Limits | None = None) -> Outcome:
    """Run a program to its end, or to the first limit; nothing of it is left."""
    limits = limits or Limits()
    with (
        tempfile.TemporaryDirectory(prefix="heddle-sandbox-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as order,
        tempfile.TemporaryFile() as report,
    ):
        settings = {each.name: getattr(limits, each.name) for each in fields(limits)}
        line = json.dumps({**settings, "report": report.fileno()})
        order.write(f"{line}\n{source}".encode(errors="replace"))
        order.seek(0)
        with _start(order, folder, report.fileno()) as process:
            try:
                output, stopped_by = _follow(process, limits)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        report.seek(0)
        said = report.read(_CHUNK_BYTES).decode().splitlines()
    not_withheld = tuple(json.loads(said[0])) if said else ()
    _warn(not_withheld)
    return Outcome(
        has_finished=said[1:] == ["finished"] and process.returncode == 0 and stopped_by is None,
        output=output.decode(errors="replace"),
        exit_code=process.returncode,
        stopped_by=stopped_by,
        not_withheld=not_withheld,
    )


def _start(order: IO[bytes], folder: str, report: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", str(_CHILD)],
        stdin=order,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder},
        pass_fds=(report,),
        start_new_session=True,
    )


def _follow(
    process: subprocess.Popen[bytes], limits: Limits
) -> tuple[bytes, Literal["time", "output"] | None]:
    """Return the output, cut at its limit, once the process ends or has to."""
    assert process.stdout is not None
    output = b""
    deadline = time.monotonic() + limits.wall_s
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left_s := deadline - time.monotonic()) > 0:
            if not selector.select(left_s):
                continue
            chunk = os.read(process.stdout.fileno(), _CHUNK_BYTES)
            if not chunk:
                break
            output += chunk
            if len(output) > limits.output_bytes:
                return output[: limits.output_bytes], "output"
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return output, "time"
    return output, None


@functools.cache
def _warn(not_withheld: tuple[str, ...]) -> None:
    if not_withheld:
        log.warning("event=weak_sandbox not_withheld=%s", ",".join(not_withheld))
