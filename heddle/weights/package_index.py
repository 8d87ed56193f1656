"""Find a wheel on the Python package index that this machine's pip is configured to use.

Called by `hub`. Speaks the simple repository API, as JSON where the index has it, else as HTML:
https://packaging.python.org/en/latest/specifications/simple-repository-api/. Which index that is,
with what certificates and proxy, is pip's to say: nothing about it is written or read here.
"""

import ast
import logging
import re
import ssl
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any, NamedTuple
from urllib.parse import urldefrag, urljoin, urlsplit

import httpx

from heddle.errors import DownloadError
from heddle.weights.download import get

log = logging.getLogger(__name__)

ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
# Asks pip in a process of its own: its modules are not ours. Lines are `section.key='value'`.
ASK_PIP = """
from pip._internal.cli.main import main
from pip._internal.models.index import PyPI
print(f"default.index-url={PyPI.simple_url!r}", flush=True)
main(["config", "list"])
"""


class Wheel(NamedTuple):
    """A wheel to fetch; `sha256` and `size_bytes` as the index gives them, if it does."""

    url: str
    filename: str
    sha256: str | None
    size_bytes: int | None


class PipSettings(NamedTuple):
    """What pip would use: indexes in order, a file of certificates, a proxy."""

    indexes: tuple[str, ...]
    certificates: str | None
    proxy: str | None


def pip_settings() -> PipSettings:
    """Ask pip for its settings: of the environment, else for `install`, else `global`."""
    answer = subprocess.run(
        [sys.executable, "-c", ASK_PIP], capture_output=True, text=True, check=False
    )
    settings: dict[str, str] = {}
    for line in answer.stdout.splitlines():
        if match := re.fullmatch(r"([\w:.-]+)=(['\"].*['\"])", line):
            settings[match[1]] = str(ast.literal_eval(match[2]))

    def find(key: str) -> str:
        sections = (":env:", "install", "global", "default")
        return next((settings[f"{s}.{key}"] for s in sections if f"{s}.{key}" in settings), "")

    if answer.returncode or not find("index-url"):
        raise DownloadError(
            "cannot ask pip which package index to use: install pip into this environment, or give "
            "the path of a .gguf file"
        )
    if find("no-index").lower() in ("1", "true", "yes", "on"):
        raise DownloadError(
            "pip is configured to use no index ('no-index'): give the path of a .gguf file instead"
        )
    indexes = [find("index-url"), *find("extra-index-url").split()]
    reachable = tuple(index for index in indexes if index.startswith(("https://", "http://")))
    log.info("indexes=%d skipped_non_http=%d", len(reachable), len(indexes) - len(reachable))
    if not reachable:
        raise DownloadError(
            "pip's indexes are local folders, not for Heddle to read: give the path of a .gguf file"
        )
    return PipSettings(reachable, find("cert") or None, find("proxy") or None)


def open_client(settings: PipSettings) -> httpx.Client:
    """Return a client with pip's certificates and proxy, or those that the environment names."""
    verify: ssl.SSLContext | bool = True
    if settings.certificates:
        try:
            verify = ssl.create_default_context(cafile=settings.certificates)
        except OSError as error:
            raise DownloadError(
                f"pip's setting 'cert' is {settings.certificates!r}: {error.strerror or error}"
            ) from error
    timeout = httpx.Timeout(30.0, connect=15.0)
    return httpx.Client(verify=verify, proxy=settings.proxy, timeout=timeout, follow_redirects=True)


def find_wheel(client: httpx.Client, indexes: tuple[str, ...], name: str, version: str) -> Wheel:
    """Return a release's wheel from the first index that has it, else raise DownloadError."""
    normal = normalised(name)
    seen: set[str] = set()
    for index in indexes:
        response = get(client, f"{index.rstrip('/')}/{normal}/", headers={"Accept": ACCEPT})
        if response.status_code == 404:
            continue
        wheels = _wheels(response)
        seen |= {wheel.filename.split("-")[1] for wheel in wheels}
        found = [wheel for wheel in wheels if _is_release(wheel.filename, normal, version)]
        if found:
            # a wheel of data fits every machine and says so in its name
            return min(found, key=lambda wheel: not wheel.filename.endswith("-none-any.whl"))
    where = ", ".join(urlsplit(index).hostname or "?" for index in indexes)
    if seen:
        raise DownloadError(
            f"{name} has no wheel of version {version} ({where}); there are: "
            f"{', '.join(sorted(seen))}"
        )
    raise DownloadError(f"package {name!r} is unknown, or has no wheels ({where}); check its name")


def normalised(name: str) -> str:
    """Return the one spelling of a package's name that an index answers to (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_release(filename: str, normal: str, version: str) -> bool:
    distribution, found = filename.split("-")[:2]
    return normalised(distribution) == normal and found == version


def _wheels(response: httpx.Response) -> list[Wheel]:
    """Read an index page, in either of its forms; anything else is an error."""
    try:
        if "json" in response.headers.get("content-type", ""):
            files = [_from_json(file, str(response.url)) for file in response.json()["files"]]
        else:
            page = _Links()
            page.feed(response.text)
            files = [_from_link(href, text, str(response.url)) for href, text in page.links]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(
            f"{response.url.host}: not an answer of a package index; check pip's 'index-url'"
        ) from error
    return [file for file in files if re.fullmatch(r"[^-]+-[^-]+-.+\.whl", file.filename)]


def _from_json(file: dict[str, Any], page_url: str) -> Wheel:
    size = file.get("size")
    return Wheel(
        urljoin(page_url, file["url"]),
        file["filename"],
        file["hashes"].get("sha256"),
        size if isinstance(size, int) else None,
    )


def _from_link(href: str, text: str, page_url: str) -> Wheel:
    url, fragment = urldefrag(urljoin(page_url, href))
    return Wheel(
        url,
        text.strip(),
        fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None,
        None,
    )


class _Links(HTMLParser):
    """Collects the links of a page with their text."""

    def __init__(self):
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self._href: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._href = dict(attrs).get("href") if tag == "a" else None

    def handle_data(self, data: str) -> None:
        if self._href:
            self.links.append((self._href, data))
            self._href = None
