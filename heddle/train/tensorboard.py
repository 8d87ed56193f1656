"""A run's figures as TensorBoard event files, by the package `tensorboard`. Used by `journal`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from heddle.errors import ConfigError


class TensorBoard:
    """One event file in `folder`."""

    def __init__(self, folder: Path):
        try:
            from tensorboard.summary import Writer  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError(
                "tensorboard=true needs the tensorboard package: pip install tensorboard"
            ) from error
        self._writer = Writer(str(folder))

    def write(self, figures: Mapping[str, Any]) -> None:
        """Record one step's figures."""
        step = figures["step"]
        for name, value in figures.items():
            if name != "step" and value is not None:
                for path, number in _numbers(name, value):
                    self._writer.add_scalar(path, number, step=step)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Yield a figure, or each of a table's, as NAME/ROW/COLUMN."""
    if not isinstance(value, list):
        yield name, value
        return
    for index, part in enumerate(value):
        yield from _numbers(f"{name}/{index}", part)
