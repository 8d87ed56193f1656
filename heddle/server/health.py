"""For those who watch over the server: /health, /ready, /metrics."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from heddle.server.served import served_by

router = APIRouter(tags=["operations"])


@router.get("/health")
async def health(request: Request) -> dict[str, str]:
    """Say that the process answers, and what computes; if it does not answer, restart it."""
    return {"status": "ok", "kernels": served_by(request).engine.kernels or "torch"}


@router.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """Say whether new requests should come here: 503 while the engine is stopped."""
    is_ready = served_by(request).engine.is_alive
    return JSONResponse({"status": "ready" if is_ready else "stopped"}, 200 if is_ready else 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return the counts in Prometheus' text format."""
    return Response(served_by(request).metrics.page(), media_type=CONTENT_TYPE_LATEST)
