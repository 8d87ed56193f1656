"""`heddle train` as a process of its own, for tests that kill it and for torchrun."""

import logging
import sys

import typer

from heddle.cli.train import train
from heddle.errors import HeddleError

if __name__ == "__main__":
    logging.basicConfig()
    try:
        typer.run(train)
    except HeddleError as error:
        sys.exit(f"{type(error).__name__}: {error}")
