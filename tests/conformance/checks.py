"""What the drivers of an OpenAI client share: named checks, run in turn, one JSON line each.

`test_openai_clients.py` starts the drivers with the version under test on `PYTHONPATH`, so nothing
here may import more than the standard library.
"""

import json
import sys
import traceback
from collections.abc import Callable

Check = Callable[[], None]


def run_checks(checks: dict[str, Check]) -> int:
    """Run each check and print `{"check", "ok", "error"}` for it; return the number that failed."""
    num_failed = 0
    for name, check in checks.items():
        error = None
        try:
            check()
        except Exception:  # the edge of a process: every failure is reported, none stops the others
            error = traceback.format_exc(limit=-4)
            num_failed += 1
        sys.stdout.write(json.dumps({"check": name, "ok": error is None, "error": error}) + "\n")
        sys.stdout.flush()
    return num_failed


def expect(condition: bool, what: object) -> None:
    """Raise with `what` was seen unless `condition` holds; an assert alone would not show it."""
    if not condition:
        raise AssertionError(str(what))
