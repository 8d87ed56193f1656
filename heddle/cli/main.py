"""The `heddle` command: its subcommands, and what becomes of an error."""

from typing import Annotated

import typer
from typer.core import TyperGroup

from heddle.cli import (
    bench,
    chat,
    distill,
    eval,
    export,
    keys,
    models,
    plan,
    prepare,
    quantize,
    run,
    serve,
    train,
    upcycle,
    version,
)
from heddle.cli.console import note
from heddle.config import calm_openmp
from heddle.errors import HeddleError


class Commands(TyperGroup):
    """Ends a command that met a `HeddleError` with one sentence and status 1."""

    def invoke(self, ctx: typer.Context) -> object:
        """Run the chosen subcommand."""
        try:
            return super().invoke(ctx)
        except HeddleError as error:
            if ctx.params["debug"]:
                raise
            note(f"Error: {error}", style="bold red")
            raise typer.Exit(1) from error


app = typer.Typer(
    name="heddle",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Serve a language model on your own machine, talk to it, measure it.",
)


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Take the options that come before the command."""
    calm_openmp()


app.command("serve")(serve.serve)
app.command("chat")(chat.chat)
app.command("run")(run.run)
app.command("pull")(models.pull)
app.command("models")(models.models)
app.command("upcycle")(upcycle.upcycle)
app.command("plan")(plan.plan)
app.command("prepare")(prepare.prepare)
app.command("train")(train.train)
app.command("distill")(distill.distill)
app.command("export")(export.export)
app.command("quantize")(quantize.quantize)
app.command("eval")(eval.evaluate_models)
app.add_typer(keys.app, name="keys")
app.add_typer(bench.app, name="bench")
app.command("version")(version.version)
