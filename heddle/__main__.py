"""`python -m heddle`, the same as the `heddle` command."""

from heddle.cli.main import app

app(prog_name="heddle")
