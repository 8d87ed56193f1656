"""Models, health, readiness, metrics."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from heddle.server.page import NOT_BUILT
from tests.server.live import live_server
from tests.tiny import tiny_engine


def samples(api) -> dict[tuple, float]:
    families = text_string_to_metric_families(api.http.get("/metrics").text)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_models(api, served_engine):
    (listed,) = api.http.get("/v1/models").json()["data"]
    assert listed == api.http.get(f"/v1/models/{listed['id']}").json()
    assert listed["context_length"] == served_engine.context_length
    assert api.http.get("/v1/models/other/name").status_code == 404


def test_counts_grow_by_what_happened(serve):
    api = serve()
    reply = api.chat("Count me", max_tokens=5, stream=False).json()["usage"]
    api.chat(stop=5)
    after = samples(api)
    route = ("route", "/v1/chat/completions")
    assert after["heddle_requests_total", route, ("status", "200")] == 1
    assert after["heddle_requests_total", route, ("status", "400")] == 1
    assert after["heddle_prompt_tokens_total",] == reply["prompt_tokens"]
    assert after["heddle_new_tokens_total",] == 5
    assert after["heddle_time_to_first_token_seconds_count",] == 1
    assert after["heddle_inter_token_gap_seconds_count",] == 4
    assert after["heddle_open_requests",] == 0
    assert after["heddle_engine_pages",] > 0


def test_unknown_paths_share_one_label(serve):
    api = serve()
    for number in range(5):
        api.http.get(f"/v1/nothing-{number}")
    requests = [key for key in samples(api) if key[0] == "heddle_requests_total"]
    assert len(requests) == 1


def test_ready_until_the_engine_stops(tmp_path):
    engine = tiny_engine(tmp_path / "tiny")
    with live_server(engine, tmp_path) as url:
        assert httpx.get(f"{url}/ready").status_code == 200
        engine.close()
        assert httpx.get(f"{url}/ready").status_code == 503
        assert httpx.get(f"{url}/health").json() == {"status": "ok", "kernels": "torch"}
        body = {"model": "tiny", "prompt": "x"}
        refused = httpx.post(f"{url}/v1/completions", json=body)
        assert refused.status_code == 500 and "closed" in refused.json()["error"]["message"]


def test_page_says_how_to_build_it():
    assert "make page" in NOT_BUILT
