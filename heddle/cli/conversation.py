"""The state of one terminal chat: messages, sampling, and the commands that change them.

`chat.py` reads lines and hands them here; nothing here touches the terminal.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from heddle.cli import options
from heddle.errors import ConfigError, StorageError

SETTINGS: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "max_tokens": int,
    "seed": int,
    "alignment": float,
    "think": lambda text: {"loops": options.loops(text)},
}


class Command(NamedTuple):
    """A slash command: what it is called with, what it does, the method that does it."""

    usage: str
    help: str
    run: Callable[["Conversation", str], str]


class Conversation:
    """Messages so far and how the next answer is drawn."""

    def __init__(self, *, system: str | None, sampling: dict[str, Any]):
        self.sampling = sampling
        self.wants_to_quit = False
        self.messages: list[dict[str, str]] = []
        self.system = system
        self.start_anew()

    def start_anew(self) -> None:
        """Forget every message but the system prompt."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def ask(self, text: str) -> None:
        """Add the person's message."""
        self.messages.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """Add the model's answer; an empty one takes the question back."""
        if text:
            self.messages.append({"role": "assistant", "content": text})
        else:
            self.messages.pop()

    def obey(self, line: str) -> str:
        """Carry out a slash command and return what to show; raises HeddleError if it cannot."""
        name, _, rest = line.partition(" ")
        command = COMMANDS.get(name)
        if command is None:
            raise ConfigError(f"there is no command {name}; /help lists them")
        return command.run(self, rest.strip())

    def _help(self, _: str) -> str:
        width = max(len(command.usage) for command in COMMANDS.values())
        lines = [f"{command.usage:<{width}}  {command.help}" for command in COMMANDS.values()]
        keys = "Enter sends, Alt-Enter starts a new line, Ctrl-C stops an answer, Ctrl-D quits."
        return "\n".join([*lines, "", keys])

    def _new(self, _: str) -> str:
        self.start_anew()
        return "A new conversation."

    def _system(self, text: str) -> str:
        if not text:
            return self.system or "There is no system prompt."
        self.system = text
        self.start_anew()
        return "The system prompt is set; a new conversation begins."

    def _set(self, text: str) -> str:
        name, _, value = text.partition(" ")
        if not name:
            return "\n".join(f"{name:<20}{self._shown(name)}" for name in SETTINGS)
        if name not in SETTINGS:
            raise ConfigError(f"there is no setting {name!r}; there are {', '.join(SETTINGS)}")
        if value in ("", "default"):
            self.sampling.pop(name, None)
            return f"{name} is back at the default."
        try:
            self.sampling[name] = SETTINGS[name](value)
        except ValueError:
            raise ConfigError(f"{name} must be a number, not {value!r}") from None
        return f"{name} is {self._shown(name)}."

    def _shown(self, name: str) -> Any:
        value = self.sampling.get(name, "default")
        return value["loops"] if isinstance(value, dict) else value

    def _save(self, text: str) -> str:
        path = Path(text).expanduser()
        if not text:
            raise ConfigError("give a file: /save NAME.json or /save NAME.md")
        if path.suffix == ".json":
            content = json.dumps(self.messages, ensure_ascii=False, indent=2)
        else:
            content = "\n\n".join(
                f"**{each['role']}**\n\n{each['content']}" for each in self.messages
            )
        try:
            path.write_text(content + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}") from error
        return f"Saved {len(self.messages)} messages to {path}."

    def _quit(self, _: str) -> str:
        self.wants_to_quit = True
        return ""


COMMANDS = {
    "/help": Command("/help", "show this list", Conversation._help),
    "/new": Command("/new", "start a new conversation", Conversation._new),
    "/system": Command(
        "/system TEXT", "set the system prompt and start anew", Conversation._system
    ),
    "/set": Command(
        "/set NAME VALUE",
        "change a setting of the sampling; /set alone lists them",
        Conversation._set,
    ),
    "/save": Command(
        "/save FILE",
        "save the conversation as Markdown, or as JSON if FILE ends so",
        Conversation._save,
    ),
    "/quit": Command("/quit", "leave", Conversation._quit),
}
