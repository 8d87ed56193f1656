"""`heddle pull` and `heddle models`: fetch models and list those that are here."""

from heddle.cli import options
from heddle.cli.console import note, out, print_json


def pull(
    spec: options.Model = options.DEFAULT,
    as_json: options.AsJson = False,
) -> None:
    """Fetch a model into the cache and check it."""
    from heddle.cli.download import fetched
    from heddle.weights.checkpoint import open_checkpoint

    path = fetched(spec)
    checkpoint = open_checkpoint(path)
    if as_json:
        print_json(
            {"name": checkpoint.name, "path": str(path), "description": checkpoint.description}
        )
        return
    print(path)
    note(f"{checkpoint.name}: {checkpoint.description}")


def models(as_json: options.AsJson = False) -> None:
    """List the models in the cache."""
    from rich.table import Table

    from heddle.weights.hub import cached_models

    found = cached_models()
    if as_json:
        print_json([{**vars(model), "path": str(model.path)} for model in found])
        return
    table = Table("name", "size", "what", "where from", box=None, pad_edge=False)
    for model in found:
        table.add_row(model.name, f"{model.size_bytes / 1e6:.0f} MB", model.description, model.spec)
    out.print(table if found else "There is no model here yet: `heddle pull SPEC` fetches one.")
