"""Keys, hosts, origins, headers, request ids, logs."""

import logging
import os
import re

import httpx
import pytest

from heddle.server.app import build_app
from heddle.server.keys import KeyStore
from heddle.server.page import DIST
from heddle.server.settings import ServerSettings

OPEN_ROUTES = {"/", "/docs", "/docs.css", "/openapi.json", "/health", "/ready"}


def test_key_is_asked_for(serve, tmp_path):
    api = serve(require_keys=True)
    store = KeyStore(tmp_path / "keys.sqlite")
    refused = api.chat()
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert refused.headers["www-authenticate"] == "Bearer"
    secret = store.create("test")
    for headers in ({"authorization": f"Bearer {secret}"}, {"api-key": secret}):
        assert api.http.get("/v1/models", headers=headers).status_code == 200
    for wrong in (secret[:-1] + "!", "hdl-", "x" * 50_000):
        headers = {"authorization": f"Bearer {wrong}"}
        assert api.http.get("/v1/models", headers=headers).status_code == 401
    store.revoke(store.list()[0].id)
    headers = {"authorization": f"Bearer {secret}"}
    assert api.http.get("/v1/models", headers=headers).status_code == 401


def test_every_route_but_the_open_ones_needs_a_key(serve, served_engine, tmp_path):
    api = serve(require_keys=True)
    app = build_app(served_engine, ServerSettings(keys_path=tmp_path / "keys.sqlite"))
    paths = set(app.openapi()["paths"]) | {
        route.path for route in app.routes if hasattr(route, "path")
    }
    assert {"/v1/chat/completions", "/metrics"} <= paths
    for path in paths - OPEN_ROUTES - {""}:
        for method in ("GET", "POST"):
            response = api.http.request(method, path.replace("{model_id}", "tiny"), json={})
            assert response.status_code == 401, path
    for path in OPEN_ROUTES:
        assert api.http.get(path).status_code == 200


def test_on_loopback_a_made_up_key_does_no_harm(api):
    headers = {"authorization": "Bearer sk-whatever"}
    assert api.http.get("/v1/models", headers=headers).status_code == 200


def test_keys_are_asked_for_when_others_can_reach_the_server():
    assert not ServerSettings().keys_required
    assert not ServerSettings(host="::1").keys_required
    assert ServerSettings(host="0.0.0.0").keys_required
    assert ServerSettings(host="example.org").keys_required
    assert not ServerSettings(host="0.0.0.0", require_keys=False).keys_required


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:99", "LOCALHOST"])
def test_loopback_hosts_are_ours(api, host):
    assert api.http.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""]
)
def test_other_hosts_are_refused(api, host):
    response = api.http.get("/v1/models", headers={"host": host})
    assert response.status_code == 403 and response.json()["error"]["code"] == "unknown_host"


def test_allowed_host(serve):
    api = serve(allowed_hosts=("heddle.example",))
    assert api.http.get("/health", headers={"host": "heddle.example"}).status_code == 200


def test_no_other_origin_may_read_unless_allowed(api, serve):
    origin = {"origin": "https://app.example"}
    assert "access-control-allow-origin" not in api.http.get("/v1/models", headers=origin).headers
    other = serve(allowed_origins=("https://app.example",), require_keys=True)
    asked = {
        **origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    allowed = other.http.options("/v1/chat/completions", headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    asked["origin"] = "https://evil.example"
    refused = other.http.options("/v1/chat/completions", headers=asked)
    assert "access-control-allow-origin" not in refused.headers


def test_security_headers_are_on_everything(api):
    for path in ("/", "/v1/models", "/nothing", "/docs"):
        headers = api.http.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "script-src 'self';" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.skipif(not DIST.exists(), reason="the chat page is not built in this checkout")
def test_built_files_are_kept_and_the_page_is_not(api):
    page = api.http.get("/")
    assert page.headers["cache-control"] == "no-cache" and "etag" in page.headers
    (asset, *_) = re.findall(r'"(/assets/[^"]+)"', page.text) or re.findall(
        r'"\./(assets/[^"]+)"', page.text
    )
    assert "immutable" in api.http.get(asset).headers["cache-control"]
    assert "immutable" not in api.http.get("/assets/gone.js").headers["cache-control"]
    assert api.http.get("/v1/models").headers["cache-control"] == "no-store"


def test_page_leaves_the_folder_closed(url):
    for path in ("/../settings.py", "/%2e%2e/%2e%2e/settings.py", "/..%2fpackage.json"):
        with httpx.Client() as http:
            assert http.get(url + path).status_code in (400, 404)


def test_docs_load_nothing(api):
    page = api.http.get("/docs").text
    assert "/v1/chat/completions" in page and "max_completion_tokens" in page
    assert "<script" not in page and "src=" not in page
    assert not re.search(r'href="(?!#|/openapi.json|/docs.css|/favicon.svg)', page)


def test_request_ids(api):
    given = api.http.get("/health", headers={"x-request-id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    made = api.http.get("/health", headers={"x-request-id": "bad id\twith spaces"})
    assert made.headers["x-request-id"].startswith("req_")
    same_id = {"x-request-id": "one"}
    replies = [
        api.http.post("/v1/completions", json={"model": "tiny", "prompt": "x"}, headers=same_id)
        for _ in range(2)
    ]
    assert [reply.status_code for reply in replies] == [200, 200]


def test_log_line_has_the_facts_and_no_prompt(api, caplog):
    with caplog.at_level(logging.INFO):
        api.http.post(
            "/v1/chat/completions",
            json={
                "model": "tiny",
                "messages": [{"role": "user", "content": "my secret"}],
                "max_tokens": 3,
                "ignore_eos": True,
            },
            headers={"authorization": "Bearer hdl-hidden", "x-request-id": "seen"},
        )
    lines = [record.getMessage() for record in caplog.records]
    (line,) = [line for line in lines if "id=seen" in line]
    for fact in (
        "method=POST",
        "path=/v1/chat/completions",
        "status=200",
        "new_tokens=3",
        "finish=length",
    ):
        assert fact in line
    assert not any("secret" in line or "hidden" in line for line in lines)


def test_key_file_is_for_its_owner(tmp_path):
    store = KeyStore(tmp_path / "deep" / "keys.sqlite")
    secret = store.create("Ada")
    assert re.fullmatch(r"hdl-[A-Za-z0-9]{40}", secret)
    assert os.stat(store.path).st_mode & 0o777 == 0o600
    assert secret.encode() not in store.path.read_bytes()
    (record,) = store.list()
    assert record.name == "Ada" and record.revoked_at is None
    assert store.check(secret) == record
    assert store.check(secret[:-1]) is None


def test_unusable_key_file_is_an_error_that_tells_strangers_nothing(serve, tmp_path, caplog):
    (tmp_path / "keys.sqlite").write_text("not a database" * 100, encoding="utf-8")
    api = serve(require_keys=True)
    response = api.http.get("/v1/models", headers={"api-key": "hdl-x"})
    assert response.status_code == 500 and "keys" not in response.text
    assert "keys.sqlite" in caplog.text
