"""A conversation with a person at a terminal: what `heddle chat` does when it has one."""

from contextlib import closing

from heddle.cli.answer_view import AnswerView
from heddle.cli.console import note, out
from heddle.cli.conversation import COMMANDS, Conversation
from heddle.cli.line_editor import LineEditor, keys_unseen
from heddle.client.model import Delta, Model
from heddle.config import data_dir
from heddle.errors import HeddleError


def talk(model: Model, conversation: Conversation) -> None:
    """Hold a conversation until the person leaves."""
    editor = LineEditor(data_dir() / "chat_history", list(COMMANDS))
    out.print(f"[bold]{model.name}[/]  [dim]/help for commands, Ctrl-D to leave[/]")
    while not conversation.wants_to_quit:
        try:
            line = editor.read().strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        try:
            if line.startswith("/"):
                out.print(conversation.obey(line), style="dim", markup=False)
            elif line:
                show_answer(model, conversation, line)
        except HeddleError as error:
            note(f"Error: {error}", style="bold red")


def show_answer(model: Model, conversation: Conversation, text: str) -> None:
    """Stream one answer, with its speed below; Ctrl-C ends the answer, not the program."""
    conversation.ask(text)
    pieces, last = [], Delta()
    out.print()
    try:
        with (
            keys_unseen(),
            AnswerView(out) as view,
            closing(model.stream(conversation.messages, **conversation.sampling)) as deltas,
        ):
            for delta in deltas:
                view.add(delta)
                pieces.append(delta.text)
                last = delta if delta.usage else last
        below = describe_speed(last)
    except KeyboardInterrupt:
        below = "stopped"
    finally:
        conversation.answer("".join(pieces))
    out.print(below, "", sep="\n", style="dim")


def describe_speed(last: Delta) -> str:
    """Return the line under an answer: tokens, speed, time to the first token, depth and cost."""
    parts = []
    if last.usage:
        parts.append(f"{last.usage.num_new_tokens} tokens")
    if last.timings and last.timings.tokens_per_s:
        parts.append(f"{last.timings.tokens_per_s:.1f} tokens/s")
    if last.timings and last.timings.first_token_s is not None:
        parts.append(f"first after {last.timings.first_token_s:.2f} s")
    if last.usage and (compute := last.usage.compute):
        if compute.mean_loops > 1:
            parts.append(f"{compute.mean_loops:.1f} loops a token")
        parts.append(f"{compute.flops / 1e9:.3g} GFLOP")
    return " · ".join(parts)
