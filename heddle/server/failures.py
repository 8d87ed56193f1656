"""Every way a request can fail, as a status and OpenAI's error object.

Source of the shape: https://platform.openai.com/docs/guides/error-codes
"""

import difflib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from heddle.errors import BusyError, ContextLengthError, HeddleError, QuotaError, RequestError

log = logging.getLogger(__name__)

STATUS_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
STATUS_BY_CODE = {"model_not_found": 404, "beyond_key_bound": 403}
PYDANTIC_CODES = {"missing": "missing_field"}
STATUS_CODES = {
    400: "invalid_json",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A refused or failed request."""

    status: int
    message: str
    parameter: str | None = None
    code: str | None = None
    retry_after_s: float | None = None

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        kind = STATUS_TYPES.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """Return the whole HTTP response."""
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def failure_of(error: HeddleError) -> Failure:
    """Map an error of ours to what the client is told."""
    match error:
        case ContextLengthError():
            return Failure(
                status=400,
                message=str(error),
                parameter=error.parameter,
                code="context_length_exceeded",
            )
        case RequestError():
            return Failure(
                status=STATUS_BY_CODE.get(error.code or "", 400),
                message=str(error),
                parameter=error.parameter,
                code=error.code or "invalid_value",
            )
        case QuotaError():
            return Failure(
                status=429,
                message=str(error),
                code="too_many_open_tokens",
                retry_after_s=error.retry_after_s,
            )
        case BusyError():
            return Failure(
                status=503, message=str(error), code="busy", retry_after_s=error.retry_after_s
            )
        case _:
            return Failure(status=500, message=str(error), code="internal_error")


def validation_failure(errors: Sequence[Mapping[str, Any]], body: Any) -> Failure:
    """Turn pydantic's errors into one sentence about the field that lies deepest."""
    first = errors[0]
    if first["type"] == "json_invalid":
        message = (
            f"the body is not valid JSON: {first['ctx']['error']} at position {first['loc'][-1]}"
        )
        return Failure(status=400, message=message, code="invalid_json")
    if isinstance(body, bytes):
        message = "send the body as JSON, with the header content-type: application/json"
        return Failure(status=415, message=message, code="not_json")
    paths = [_path(error, body) for error in errors]
    deepest = max(paths, key=len)
    found = [error for error, path in zip(errors, paths, strict=True) if path == deepest]
    messages = dict.fromkeys(error["msg"][:1].lower() + error["msg"][1:] for error in found)
    parameter = ".".join(deepest) or None
    return Failure(
        status=400,
        message=f"{parameter or 'the body'}: {' or '.join(messages)}",
        parameter=parameter,
        code=found[0].get("ctx", {}).get("code")
        or PYDANTIC_CODES.get(found[0]["type"], "invalid_value"),
    )


def _path(error: Mapping[str, Any], body: Any) -> list[str]:
    """Return the field of an error, without the names that pydantic adds for unions."""
    path: list[str] = []
    here = body
    for part in error["loc"][1:]:
        if (
            isinstance(here, dict)
            and part in here
            or isinstance(here, list)
            and isinstance(part, int)
        ):
            here = here[part]
            path.append(str(part))
    if error["type"] == "missing" and len(error["loc"]) > 1:
        path.append(str(error["loc"][-1]))
    if field := error.get("ctx", {}).get("field"):
        path.append(field)
    return path


def nearest(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean ...?" if a known name is close to `name`, else nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def install_handlers(app: FastAPI) -> None:
    """Answer every error of a route in OpenAI's shape."""

    async def on_heddle_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HeddleError)
        failure = failure_of(error)
        if failure.status == 500:
            log.error("event=failed id=%s error=%s", request.state.record.id, type(error).__name__)
        return failure.response()

    async def on_validation_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return validation_failure(error.errors(), error.body).response()

    async def on_http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = {
            400: "the body is JSON that nests too deeply or holds a number too long",
            404: f"there is no {request.method} {request.url.path} here: /docs lists what there is",
            405: f"{request.url.path} does not take {request.method}",
        }.get(error.status_code, error.detail)
        code = STATUS_CODES.get(error.status_code)
        response = Failure(status=error.status_code, message=message, code=code).response()
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(HeddleError, on_heddle_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
