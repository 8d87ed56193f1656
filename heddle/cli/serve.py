"""`heddle serve`: the server and the chat page, on this machine."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heddle.cli import options
from heddle.cli.console import note
from heddle.cli.starting import give_back_memory, without_collecting

if TYPE_CHECKING:
    from heddle.engine.config import EngineConfig
    from heddle.server.settings import ServerSettings

Host = Annotated[
    str, typer.Option(help="Address to listen on; beyond loopback, API keys are asked for.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
MaxRunning = Annotated[int, typer.Option(min=1, help="Answers written at once.")]
MaxWaiting = Annotated[
    int, typer.Option(min=1, help="Requests that may queue; more are told to come back.")
]
CacheTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens kept in memory.", show_default="one context, 8192 at least"),
]
PrefixCache = Annotated[
    Path | None,
    typer.Option(
        help="A folder to keep prompts' keys and values in, so that a restart finds them again."
    ),
]
Keys = Annotated[
    bool | None,
    typer.Option("--keys/--no-keys", help="Ask for API keys.", show_default="only beyond loopback"),
]
AllowedOrigin = Annotated[
    list[str] | None,
    typer.Option(help="Another site whose pages may call the API (CORS); may be repeated."),
]
AllowedHost = Annotated[
    list[str] | None,
    typer.Option(
        help="Another name this server is reached by, as behind a proxy; may be repeated."
    ),
]
RequestsPerMinute = Annotated[
    int, typer.Option(min=0, help="Requests of one caller a minute; 0 is no limit.")
]
MaxOpenTokens = Annotated[
    int,
    typer.Option(
        min=0,
        help="Tokens that one caller may have under way, answers at their longest; 0 is no limit.",
    ),
]
DrainTimeout = Annotated[
    float, typer.Option(min=0, help="Seconds that running answers may go on after SIGTERM.")
]
Think = Annotated[
    str,
    typer.Option(
        metavar="auto|N",
        help="How often tokens pass the thinking block where a request does not say.",
    ),
]


def serve(
    model: options.Model = options.DEFAULT,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    threads: options.Threads = None,
    context_length: options.ContextLength = None,
    dtype: options.Dtype = "float32",
    kernels: options.Kernels = "auto",
    cache_dtype: options.CacheDtype = "auto",
    speculation: options.Speculation = True,
    max_running: MaxRunning = 16,
    max_waiting: MaxWaiting = 128,
    cache_tokens: CacheTokens = None,
    prefix_cache: PrefixCache = None,
    keys: Keys = None,
    allowed_origin: AllowedOrigin = None,
    allowed_host: AllowedHost = None,
    requests_per_minute: RequestsPerMinute = 0,
    max_open_tokens: MaxOpenTokens = 0,
    drain_timeout: DrainTimeout = 30.0,
    think: Think = "1",
) -> None:
    """Serve a model and the chat page until interrupted."""
    with without_collecting():
        from heddle.engine.config import EngineConfig
        from heddle.server.settings import ServerSettings

    settings = ServerSettings(
        host=host,
        port=port,
        require_keys=keys,
        allowed_origins=tuple(allowed_origin or ()),
        allowed_hosts=tuple(allowed_host or ()),
        requests_per_minute=requests_per_minute,
        max_open_tokens_per_caller=max_open_tokens,
        drain_timeout_s=drain_timeout,
        think=options.loops(think),
    )
    config = EngineConfig(
        threads=threads,
        context_length=context_length,
        dtype=dtype,
        kernels=kernels,
        cache_dtype=cache_dtype,
        max_running=max_running,
        max_waiting=max_waiting,
        cache_tokens=cache_tokens,
        prefix_cache=prefix_cache,
        draft_tokens=options.draft_tokens(speculation=speculation),
    )
    _log()
    _serve(model, settings, config)


def _serve(model: str, settings: "ServerSettings", config: "EngineConfig") -> None:
    with without_collecting():
        from heddle.cli.download import fetched
        from heddle.engine.engine import Engine
        from heddle.server.main import listen, run

    with listen(settings) as listener:  # first, so that a taken port shows at once
        engine = Engine.load(fetched(model), config)
        note(
            f"Serving {engine.checkpoint.name} ({engine.checkpoint.description}), "
            f"{engine.context_length} tokens of context, {_computing(engine.kernels)}"
        )
        url = _url(settings.host, listener.getsockname()[1])

        def on_ready() -> None:
            give_back_memory()
            print(f"Heddle is ready: {url}", flush=True)

        run(engine, settings, listener=listener, on_ready=on_ready)


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for library in ("uvicorn", "httpx"):
        logging.getLogger(library).setLevel(logging.WARNING)


def _computing(kernels: str | None) -> str:
    return f"{kernels} kernels" if kernels else "PyTorch, no native kernels"


def _url(host: str, port: int) -> str:
    """Return an address that a browser on this machine takes."""
    named = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return f"http://{named.get(host, f'[{host}]' if ':' in host else host)}:{port}"
