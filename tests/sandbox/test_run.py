import os
import socket
import sys
import time
from pathlib import Path

import pytest

from heddle.errors import ConfigError
from heddle.sandbox import child, run
from heddle.sandbox.run import Limits, Outcome, run_python

confined = pytest.mark.skipif(
    bool(run_python("").not_withheld), reason="this system lacks Landlock or seccomp"
)


def test_a_program_runs_to_its_end():
    outcome = run_python("import json\nprint(json.dumps({'é': 1}, ensure_ascii=False))")
    assert outcome.has_finished
    assert outcome.output == '{"é": 1}\n'


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("def broken(:", "SyntaxError"),
        ("import sys\nsys.exit(0)", ""),
        ("import os\nos._exit(0)", ""),
        ("input()", "EOFError"),
    ],
)
def test_errors_and_early_exits_are_no_end(source: str, output: str):
    outcome = run_python(source)
    assert not outcome.has_finished
    assert output in outcome.output


def test_the_program_is_the_main_module():
    assert run_python(
        "import pickle\nclass Thing: pass\nassert __name__ == '__main__'\n"
        "assert type(pickle.loads(pickle.dumps(Thing()))) is Thing"
    ).has_finished


def test_threads_may_run():
    outcome = run_python(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool: print(sum(pool.map(abs, range(-9, 0))))"
    )
    assert (outcome.has_finished, outcome.output) == (True, "45\n")


def test_an_endless_loop_ends_by_processor_time():
    outcome = run_python("while True: pass", Limits(cpu_s=1))
    assert not outcome.has_finished
    assert outcome.exit_code < 0


def test_a_sleeper_ends_by_the_clock():
    started = time.monotonic()
    outcome = run_python("import time\ntime.sleep(60)", Limits(wall_s=1))
    assert (outcome.has_finished, outcome.stopped_by) == (False, "time")
    assert time.monotonic() - started < 30


def test_closing_the_output_does_not_hide_a_sleeper():
    source = "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(60)"
    assert run_python(source, Limits(wall_s=1)).stopped_by == "time"


def test_output_is_bounded():
    outcome = run_python("while True: print('x' * 1000)", Limits(output_bytes=5000))
    assert outcome.stopped_by == "output"
    assert len(outcome.output) == 5000


def test_memory_is_bounded():
    outcome = run_python("hog = bytearray(600 << 20)", Limits(memory_bytes=400 << 20))
    assert "MemoryError" in outcome.output


def test_files_are_bounded():
    source = "with open('big', 'wb') as file: file.write(bytes(2 << 20))"
    assert "File too large" in run_python(source, Limits(file_bytes=1 << 20)).output
    source = "files = [open(str(number), 'w') for number in range(100)]"
    assert "Too many open files" in run_python(source).output


def test_its_folder_is_empty_writable_and_gone_afterwards():
    outcome = run_python(
        "import os\nassert os.listdir() == []\nopen('note', 'w').write('kept')\n"
        "assert open('note').read() == 'kept'\nprint(os.getcwd())"
    )
    assert outcome.has_finished
    assert not os.path.exists(outcome.output.strip())


def test_secrets_of_the_environment_do_not_reach_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEDDLE_API_KEY", "sk-quiet")
    outcome = run_python("import os\nprint(sorted(os.environ.items()))")
    assert outcome.has_finished
    assert "sk-quiet" not in outcome.output
    assert "HEDDLE" not in outcome.output


def test_packages_do_not_reach_it():
    assert "ModuleNotFoundError" in run_python("import pytest").output


def denied(source: str) -> Outcome:
    outcome = run_python(source)
    assert not outcome.has_finished
    assert "PermissionError" in outcome.output
    return outcome


@confined
def test_nothing_outside_is_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("sk-quiet", encoding="utf-8")
    assert "sk-quiet" not in denied(f"print(open({str(secret)!r}).read())").output
    denied(f"import os\nprint(os.listdir({str(tmp_path)!r}))")
    denied(f"print(open('/proc/{os.getpid()}/environ').read())")


@confined
@pytest.mark.parametrize(
    "attempt",
    [
        "open({file!r}, 'w')",
        "open({other!r}, 'w')",
        "os.remove({file!r})",
        "os.rename('own', {file!r})",
        "os.symlink({file!r}, 'link'); open('link', 'w')",
        "os.mkdir({other!r})",
        "os.chmod({file!r}, 0)",
        "os.truncate({file!r}, 0)",
        "os.utime({file!r})",
    ],
)
def test_nothing_outside_is_changed(tmp_path, attempt: str):
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("as it was", encoding="utf-8")
    before = file.stat()
    call = attempt.format(file=str(file), other=str(other))
    denied(f"import os\nopen('own', 'w').close()\n{call}")
    assert file.read_text(encoding="utf-8") == "as it was"
    assert (file.stat().st_mode, file.stat().st_mtime) == (before.st_mode, before.st_mtime)
    assert not other.exists()


@confined
@pytest.mark.parametrize(
    "attempt",
    [
        "while True: os.fork()",
        "subprocess.run(['ls'])",
        "os.execv('/bin/true', ['true'])",
        "socket.socket()",
        "socket.create_connection(('127.0.0.1', 1))",
        "os.kill(os.getppid(), 9)",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
        "os.setxattr('.', 'user.mark', b'1')",
    ],
)
def test_no_process_no_network_no_signal(attempt: str):
    denied(f"import os, resource, socket, subprocess\n{attempt}")


@confined
def test_limits_cannot_be_raised():
    source = "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (999, 999))"
    assert not run_python(source).has_finished


@confined
def test_no_listener_outlives_the_program():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    outcome = run_python(
        "import os, socket, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    listener = socket.socket()\n"
        f"    listener.bind(('127.0.0.1', {port}))\n"
        "    listener.listen()\n"
        "    time.sleep(60)\n"
        "time.sleep(1)"
    )
    assert not outcome.has_finished
    with socket.socket() as caller:
        assert caller.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def no_seccomp(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """A processor that the filter does not know."""
    script = tmp_path / "child.py"
    script.write_text(
        "import platform\nplatform.machine = lambda: 'unknown'\n"
        f"with open({child.__file__!r}) as file: exec(file.read())\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(run, "_CHILD", script)


def test_without_seccomp_its_children_die_with_it(no_seccomp):
    """Unless the limit on processes holds, which it does but for root."""
    outcome = run_python(
        "import os, time\n"
        "try:\n"
        "    pid = os.fork()\n"
        "except OSError:\n"
        "    pid = -1\n"
        "if pid == 0: time.sleep(60)\n"
        "print(pid, flush=True)\n"
        "os._exit(0)",
        Limits(wall_s=2),
    )
    child_pid = int(outcome.output)
    deadline = time.monotonic() + 10
    while child_pid > 0 and is_running(child_pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not only waiting to be collected."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
    return "State:\tZ" not in status


def test_a_weak_sandbox_says_so(no_seccomp, caplog: pytest.LogCaptureFixture):
    run._warn.cache_clear()
    outcome = run_python("print('done')")
    assert outcome.has_finished
    assert {"network", "processes"} <= set(outcome.not_withheld)
    assert "weak_sandbox" in caplog.text


def test_what_cannot_be_withheld_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert child.confine(".") == ["files", "network", "processes"]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_jumps_within_itself(machine: str):
    instructions = child.filter_instructions(machine)
    for place, (code, if_true, if_false, _) in enumerate(instructions):
        assert place + 1 + max(if_true, if_false) < len(instructions) or code == 0x06
    assert instructions[-1] == (0x06, 0, 0, 0x7FFF0000)


def test_the_filter_knows_two_processors():
    with pytest.raises(KeyError):
        child.filter_instructions("riscv64")


@pytest.mark.parametrize("name", ["wall_s", "cpu_s", "memory_bytes", "output_bytes"])
def test_limits_are_positive(name: str):
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: 0})
