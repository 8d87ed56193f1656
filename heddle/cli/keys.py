"""`heddle keys`: make, list and revoke the API keys of this machine's server."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from heddle.cli.console import note, out, print_json

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what the key is for.")],
    max_loops: Annotated[
        int | None, typer.Option(min=1, help="Loops that its requests may ask for.")
    ] = None,
    steer_bound: Annotated[
        float | None,
        typer.Option(min=0, max=4, help="How far its requests may steer a cluster."),
    ] = None,
    max_open_tokens: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Tokens that its requests may have under way, answers at their longest; 0: any.",
            show_default="the server's",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it; it cannot be shown again."""
    from heddle.server.dial import MAX_STEER, Bounds

    bounds = Bounds(
        max_loops=max_loops,
        steer=MAX_STEER if steer_bound is None else steer_bound,
        max_open_tokens=max_open_tokens,
    )
    secret = _store().create(name, bounds)
    if as_json:
        print_json({"name": name, "key": secret})
        return
    print(secret)
    note(
        "Keep it: only its hash is stored. OpenAI clients send it as their API key, "
        "Heddle's own take it from $HEDDLE_API_KEY."
    )


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """Show every key made so far."""
    from rich.table import Table

    records = _store().list()
    if as_json:
        print_json([vars(record) for record in records])
        return
    names = ("id", "name", "created", "max loops", "steer", "open tokens", "state")
    table = Table(*names, box=None, pad_edge=False)
    for record in records:
        state = "works" if record.revoked_at is None else f"revoked {_date(record.revoked_at)}"
        tokens = "default" if record.max_open_tokens is None else record.max_open_tokens or "any"
        bounds = (str(record.max_loops or "any"), f"±{record.steer_bound:g}", str(tokens))
        table.add_row(record.id, record.name, _date(record.created_at), *bounds, state)
    out.print(table if records else "There is no key yet: `heddle keys create NAME` makes one.")


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(help="The key's id, as `heddle keys list` shows it.")],
) -> None:
    """Make a key worthless from now on."""
    _store().revoke(id)
    note(f"{id} is revoked.")


def _store():
    from heddle.server.keys import KeyStore
    from heddle.server.settings import ServerSettings

    return KeyStore(ServerSettings().keys_path)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
