"""The chat page at `/` and the reference at `/docs`; neither asks anything of another server."""

from html import escape
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

DIST = Path(__file__).parent / "ui" / "dist"
STYLE = "body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto }"
LIMITS = {"minimum": "≥", "maximum": "≤", "exclusiveMaximum": "<", "pattern": "matching"}
NOT_BUILT = """<!doctype html><html lang="en"><title>Heddle</title><h1>Heddle is running</h1>
<p>The chat page is not built in this checkout: run <code>make page</code>, then reload.
The API works without it: <a href="/docs">reference</a>.</p></html>"""


def add_pages(app: FastAPI) -> None:
    """Add both pages; to be called last, as the chat page takes every path that is left."""

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(reference_page(request.app.openapi()))

    @app.get("/docs.css", include_in_schema=False)
    async def docs_style() -> Response:
        return Response(STYLE, media_type="text/css")

    if (DIST / "index.html").is_file():
        app.mount("/", StaticFiles(directory=DIST, html=True), name="page")
        return

    @app.get("/", include_in_schema=False)
    async def not_built() -> HTMLResponse:
        return HTMLResponse(NOT_BUILT)


def reference_page(openapi: dict[str, Any]) -> str:
    """Return an OpenAPI description as a page of plain HTML, with nothing to load."""
    routes = [
        _route(method, path, operation)
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    ]
    schemas = openapi["components"]["schemas"]
    objects = [_object(name, schema) for name, schema in schemas.items() if "properties" in schema]
    title, description = (escape(openapi["info"][key]) for key in ("title", "description"))
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<link rel="icon" href="/favicon.svg"><link rel="stylesheet" href="/docs.css"></head><body>
<h1>{title}</h1>
<p>{description} For programs: <a href="/openapi.json">openapi.json</a>.</p>
{"".join(routes)}<h2>Objects</h2>{"".join(objects)}</body></html>"""


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    about = escape(operation["description"])
    return f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{about}</p>{_body(operation)}"


def _body(operation: dict[str, Any]) -> str:
    if "requestBody" not in operation:
        return ""
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    return f"<p>Body: {_type(schema)}</p>"


def _object(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<li><code>{escape(field)}</code>{' required,' if field in required else ''} {_type(kind)}"
        for field, kind in schema["properties"].items()
    )
    about = escape(schema.get("description", ""))
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{about}</p><ul>{rows}</ul>'


def _type(schema: dict[str, Any]) -> str:
    """Return a type in words, with links to objects."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for union in ("anyOf", "oneOf"):
        if union in schema:
            members = [member for member in schema[union] if member.get("type") != "null"]
            return " or ".join(map(_type, members))
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = [f"{word} {schema[key]}" for key, word in LIMITS.items() if key in schema]
    return escape(" ".join([schema.get("type", "any"), *limits]))
