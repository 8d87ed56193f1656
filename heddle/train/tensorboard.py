"""A run's figures as TensorBoard event files, by the package `tensorboard`. Used by `journal`."""

from collections.abc import Mapping
from pathlib import Path

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

    def write(self, figures: Mapping[str, float | int | None]) -> None:
        """Record one step's figures."""
        step = figures["step"]
        for name, value in figures.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, step=step)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()
