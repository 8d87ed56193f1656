"""Fetch one file over HTTP: resumed, tried again after failures, checked by its hash.

Called by `hub` and `package_index`.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx

from heddle.errors import DownloadError
from heddle.weights.atomic import storage_error

log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if known

T = TypeVar("T")

ATTEMPTS = 4
FIRST_PAUSE_S = 0.5  # doubles after each failed attempt
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)


class _Interrupted(Exception):
    """An attempt failed in a way that may pass."""


def get(client: httpx.Client, url: str, *, headers: dict[str, str]) -> httpx.Response:
    """Return a page; a 404 is returned too. Raise DownloadError when there is no useful answer."""

    def attempt() -> httpx.Response:
        response = client.get(url, headers=headers)
        if response.status_code != 404:
            _check_status(response)
        return response

    return _persistently(attempt, url, lambda: 0)


def fetch(
    client: httpx.Client,
    url: str,
    target: Path,
    *,
    sha256: str | None,
    on_progress: Progress | None = None,
) -> None:
    """Write a URL's content to `target`, going on with `target`.part if an earlier call left one.

    Raises DownloadError when the content cannot be had or has another hash, StorageError when it
    cannot be written. Nothing but a .part file that can be resumed is left behind.
    """
    part = target.with_name(target.name + ".part")
    report = on_progress or (lambda done, total: None)
    while True:
        resumed = _size(part) > 0
        _persistently(lambda: _attempt(client, url, part, report), url, lambda: _size(part))
        actual = file_sha256(part)
        if sha256 is None or actual == sha256:
            os.replace(part, target)
            return
        part.unlink()
        if not resumed:
            raise DownloadError(
                f"{target.name} from {_host(url)} has sha256 {actual}, expected {sha256}: it was "
                "damaged or replaced on the way and was deleted; try again, or check your index"
            )
        log.warning("resumed file has the wrong hash, starting over: file=%s", target.name)


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _attempt(client: httpx.Client, url: str, part: Path, report: Progress) -> None:
    """Read as much as comes; raise _Interrupted or httpx.TransportError if it is not all."""
    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:  # what we have is no beginning of what is there now
            part.unlink(missing_ok=True)
            raise _Interrupted("the partial file does not fit")
        _check_status(response)
        sent = response.headers.get("content-range", "")
        if response.status_code != 206 or not sent.startswith(f"bytes {have}-"):
            have = 0
        try:
            _append(response, part, have, report)
        except OSError as error:  # the disk's: those of the network are httpx's own
            part.unlink(missing_ok=True)
            raise storage_error(part.parent, error) from error


def _append(response: httpx.Response, part: Path, have: int, report: Progress) -> None:
    """Write what comes after the first `have` bytes of a file; httpx raises if it comes short."""
    length = response.headers.get("content-length", "")
    total = have + int(length) if length.isdigit() else None
    with part.open("ab" if have else "wb") as file:
        report(have, total)
        for chunk in response.iter_raw():
            file.write(chunk)
            have += len(chunk)
            report(have, total)
        file.flush()
        os.fsync(file.fileno())


def _check_status(response: httpx.Response) -> None:
    if response.status_code in _TRY_AGAIN:
        raise _Interrupted(f"it answers {response.status_code} {response.reason_phrase}")
    if not response.is_success:
        raise DownloadError(
            f"{response.url.host} answers {response.status_code} {response.reason_phrase} for "
            f"{response.url.path}"
        )


def _persistently(attempt: Callable[[], T], url: str, progress: Callable[[], int]) -> T:
    """Return what `attempt` returns, trying again after pauses for as long as bytes keep coming."""
    failures = 0
    while True:
        before = progress()
        try:
            return attempt()
        except (httpx.TransportError, _Interrupted) as error:
            failures = 1 if progress() > before else failures + 1
            if failures >= ATTEMPTS:
                raise DownloadError(
                    f"cannot fetch from {_host(url)}: {str(error) or type(error).__name__}; check "
                    "the network (and proxy) and try again: it goes on where it stopped"
                ) from error
            log.warning("attempt failed: host=%s error=%s failures=%d", _host(url), error, failures)
            time.sleep(FIRST_PAUSE_S * 2 ** (failures - 1))
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # too many redirects, a bad address
            raise DownloadError(f"cannot fetch from {_host(url)}: {error}") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _host(url: str) -> str:
    return urlsplit(url).hostname or "?"
