"""The page made from given figures, and the proxy before a real HTTP server."""

import json
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from bench.operator.figures import Figures, Results
from bench.operator.page import page, verdicts
from bench.operator.proxy import counting, kind_of, kubeconfig_for, verb_of

NODES = "/api/v1/namespaces/shop"
EVENTS = "/apis/intake-engine.io/v1alpha1/namespaces/shop/intakeevents"


@pytest.mark.parametrize(
    ("method", "path", "query", "content", "counted"),
    [
        ("GET", f"{NODES}/secrets/a", {}, "", "get secrets"),
        ("GET", "/api/v1/pods", {}, "", "list pods"),
        ("GET", "/api/v1/pods", {"watch": "true"}, "", "watch pods"),
        ("GET", "/api/v1/namespaces/shop", {}, "", "get namespaces"),
        ("GET", "/api/v1", {}, "", "list discovery"),
        ("PATCH", f"{EVENTS}/a/status", {}, "application/apply-patch+yaml", "apply intakeevents/status"),
        ("PATCH", f"{EVENTS}/a", {}, "application/json-patch+json", "patch intakeevents"),
        ("POST", f"{NODES}/events", {}, "", "create events"),
        ("DELETE", f"{NODES}/pods/a", {}, "", "delete pods"),
    ],
)
def test_a_request_is_counted_by_its_verb_and_kind(
    method: str, path: str, query: dict[str, str], content: str, counted: str
) -> None:
    assert f"{verb_of(method, path, query, content)} {kind_of(path)}" == counted


class Echo(BaseHTTPRequestHandler):
    """Answers with the path that was asked for."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_the_proxy_passes_on_what_it_counts() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    Thread(target=server.serve_forever, daemon=True).start()
    cluster = {"cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
    with counting({"clusters": [cluster], "users": [{"user": {}}]}) as proxy:
        config = json.loads(kubeconfig_for(proxy))
        url = f"{config['clusters'][0]['cluster']['server']}{NODES}/secrets/a?x=1"
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.read().decode() == f"{NODES}/secrets/a?x=1"
    assert proxy.requests == {"get secrets": 1}
    server.shutdown()
    server.server_close()


def test_the_page_says_what_was_wanted_and_found(tmp_path: Path) -> None:
    waiting = Figures("waiting", 200, 120.0, {"get secrets": 400, "watch pods": 1}, 0.6, 90.0, 95.0)
    results = Results("2026-11-28", {"cores": "2"}, "v1.35.0", [waiting])
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results
    notes = tmp_path / "notes.md"
    notes.write_text("## Notes\n")
    text = page(results, notes)
    assert "| waiting, 200 events | 1.00 | 200 | 5 | 90 | 95 |" in text
    found = {each.goal: each.words for each in verdicts(results)}
    assert found["waiting, 200 events: requests a minute for each"] == "met"
    assert found["waiting, 200 events: memory at most, MiB"] == "met"
    assert found["open, 1 event: requests a minute for each"] == "not measured"
