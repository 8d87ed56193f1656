"""The application: routes, and the layers around them from the outermost in."""

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

import heddle
from heddle.engine.engine import Engine
from heddle.server import chat, completions, embeddings, health, models
from heddle.server.access import Access
from heddle.server.body import BodyLimit
from heddle.server.failures import install_handlers
from heddle.server.gate import Admission, HostCheck, KeyCheck
from heddle.server.headers import SecurityHeaders
from heddle.server.keys import KeyStore
from heddle.server.page import add_pages
from heddle.server.served import Served
from heddle.server.settings import ServerSettings

DESCRIPTION = (
    "An OpenAI-compatible API. docs/api.md says what of OpenAI's is supported, ignored and refused."
)
RESOURCES = (chat, completions, embeddings, models, health)


def build_app(engine: Engine, settings: ServerSettings) -> FastAPI:
    """Return the application that serves `engine`; closing the engine is the caller's."""
    served = Served(engine, settings)
    app = FastAPI(
        title="Heddle",
        version=heddle.__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        middleware=_layers(served),
    )
    app.state.served = served
    install_handlers(app)
    for resource in RESOURCES:
        app.include_router(resource.router)
    add_pages(app)
    return app


def _layers(served: Served) -> list[Middleware]:
    settings, metrics = served.settings, served.metrics
    layers = [Middleware(Access, metrics=metrics), Middleware(SecurityHeaders)]
    if settings.on_loopback:
        layers.append(Middleware(HostCheck, allowed_hosts=settings.allowed_hosts))
    if settings.allowed_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.allowed_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type", "api-key", "x-request-id"],
                expose_headers=["x-request-id", "retry-after"],
            )
        )
    keys = KeyStore(settings.keys_path)
    layers.append(Middleware(KeyCheck, keys=keys, required=settings.keys_required))
    layers.append(Middleware(Admission, limits=served.limits, metrics=metrics))
    layers.append(Middleware(BodyLimit, max_bytes=settings.max_body_bytes))
    return layers
