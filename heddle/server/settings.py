"""What an operator may set about the server; `heddle serve` has flags for the usual ones."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from heddle.config import data_dir
from heddle.errors import ConfigError


def _default_keys_path() -> Path:
    return data_dir() / "keys.sqlite"


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Address, access and limits of one server.

    `require_keys` None means: on loopback no key is asked for, anywhere else every API call needs
    one. `allowed_hosts` are further names that a server on loopback answers to, say behind a proxy.
    `allowed_origins` are web pages of other origins that may call the API (CORS). `max_choices`
    bounds the answers of one request (`n` times its prompts), `max_inputs` the texts of one
    embeddings request. `requests_per_minute`, `max_open_per_caller` and
    `max_open_tokens_per_caller`, tokens of prompts and of answers at their longest, hold for each
    key, or for each address where no key is sent; 0 is no limit. `max_open` bounds all requests
    under way together. `read_timeout_s` is how long a client may take to send a request,
    `write_timeout_s` how long it may read nothing while an answer waits, `heartbeat_s` how long a
    stream stays silent before a comment is sent, `think` how deep a request thinks that does not
    say (loops, or "auto": as each token needs), `drain_timeout_s` how long running answers may go
    on after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    require_keys: bool | None = None
    keys_path: Path = field(default_factory=_default_keys_path)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_body_bytes: int = 8 << 20
    max_choices: int = 16
    max_inputs: int = 256
    max_open: int = 256
    max_open_per_caller: int = 0
    max_open_tokens_per_caller: int = 0
    requests_per_minute: int = 0
    read_timeout_s: float = 60.0
    write_timeout_s: float = 60.0
    heartbeat_s: float = 15.0
    drain_timeout_s: float = 30.0
    think: int | Literal["auto"] = 1

    def __post_init__(self):
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must lie between 0 and 65535, not {self.port}")
        for name in (
            "max_body_bytes",
            "max_choices",
            "max_inputs",
            "max_open",
            "read_timeout_s",
            "write_timeout_s",
            "heartbeat_s",
        ):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        for name in (
            "max_open_per_caller",
            "max_open_tokens_per_caller",
            "requests_per_minute",
            "drain_timeout_s",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.think != "auto" and self.think < 1:
            raise ConfigError(f'think must be "auto" or a number of loops, not {self.think}')
        if "*" in self.allowed_origins:
            raise ConfigError(
                "allowed_origins must name each origin, as in https://example.org, not *"
            )

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def keys_required(self) -> bool:
        """Whether API calls need a key."""
        return not self.on_loopback if self.require_keys is None else self.require_keys
