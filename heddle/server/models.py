"""GET /v1/models and /v1/models/{id}."""

from typing import Any

from fastapi import APIRouter, Request

from heddle.server.served import served_by

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """List what is served: one model."""
    return {"object": "list", "data": [_model(request)]}


@router.get("/v1/models/{model_id:path}")
async def get_model(model_id: str, request: Request) -> dict[str, Any]:
    """Describe the model."""
    served_by(request).check_model(model_id)
    return _model(request)


def _model(request: Request) -> dict[str, Any]:
    served = served_by(request)
    return {
        "id": served.model_id,
        "object": "model",
        "created": served.created_at,
        "owned_by": "heddle",
        "context_length": served.engine.context_length,
        "description": served.engine.checkpoint.description,
        **served.dials.card(request.state.record.bounds),
    }
