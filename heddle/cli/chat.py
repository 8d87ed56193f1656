"""`heddle chat`: a conversation in the terminal."""

import sys
from contextlib import closing

from heddle.cli import options
from heddle.cli.console import note, out
from heddle.cli.conversation import COMMANDS, Conversation
from heddle.client.model import Delta, Model
from heddle.config import data_dir
from heddle.errors import HeddleError


def chat(
    model: options.Model = options.DEFAULT,
    url: options.Url = None,
    system: options.System = None,
    temperature: options.Temperature = options.TEMPERATURE,
    max_tokens: options.MaxTokens = None,
    threads: options.Threads = None,
    context_length: options.ContextLength = None,
    dtype: options.Dtype = "float32",
) -> None:
    """Talk to a model in the terminal; lines from a pipe are answered one by one."""
    from heddle.cli.connection import connected

    sampling = options.sampling(temperature=temperature, max_tokens=max_tokens)
    conversation = Conversation(system=system, sampling=sampling)
    config = options.engine_config(threads=threads, context_length=context_length, dtype=dtype)
    with connected(model, url=url, config=config) as connection:
        if sys.stdin.isatty() and out.is_terminal:
            talk(connection, conversation)
        else:
            answer_lines(connection, conversation)


def talk(model: Model, conversation: Conversation) -> None:
    """Hold a conversation with a person until they leave."""
    from heddle.cli.line_editor import LineEditor

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
    from heddle.cli.answer_view import AnswerView
    from heddle.cli.line_editor import keys_unseen

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
    """Return the line under an answer: tokens, speed, time to the first token."""
    parts = []
    if last.usage:
        parts.append(f"{last.usage.num_new_tokens} tokens")
    if last.timings and last.timings.tokens_per_s:
        parts.append(f"{last.timings.tokens_per_s:.1f} tokens/s")
    if last.timings and last.timings.first_token_s is not None:
        parts.append(f"first after {last.timings.first_token_s:.2f} s")
    return " · ".join(parts)


def answer_lines(model: Model, conversation: Conversation) -> None:
    """Answer each line of standard input with plain text."""
    for line in map(str.strip, sys.stdin):
        if line.startswith("/"):
            print(conversation.obey(line), end="" if conversation.wants_to_quit else "\n")
        elif line:
            conversation.ask(line)
            pieces = []
            for delta in model.stream(conversation.messages, **conversation.sampling):
                print(delta.text, end="", flush=True)
                pieces.append(delta.text)
            print()
            conversation.answer("".join(pieces))
        if conversation.wants_to_quit:
            return
