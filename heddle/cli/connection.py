"""The model that `chat` and `run` talk to: a running server's, or that of one started here.

Both are spoken to over HTTP, so that the terminal takes the same path as every other client.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from heddle.client.http import HttpModel

if TYPE_CHECKING:
    from heddle.engine.config import EngineConfig


@contextmanager
def connected(spec: str, *, url: str | None, config: "EngineConfig") -> Iterator[HttpModel]:
    """Give the model of the server at `url`, or `spec`, served here until the block ends."""
    if url:
        with HttpModel(url) as model:
            yield model
        return
    from heddle.cli.download import fetched
    from heddle.cli.local_server import loaded, serving

    with (
        loaded(fetched(spec), config) as engine,
        serving(engine) as local_url,
        HttpModel(local_url) as model,
    ):
        yield model
