"""Spans of the real server process, as a collector gets them by OTLP over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from http_peer import served
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from stdio_peer import HELLO, INITIALIZED, MODERN, Peer, call, request, started

GONE_S = 2.0
NOWHERE = "http://127.0.0.1:9"
QUERY, GUIDANCE, KEY = "zebra query words", "Always paint the giraffe in cents.", "sk-never-in-a-span"
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector:
    """Keeps what is sent to it, as it came and decoded."""

    def __init__(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                with collector.came:
                    collector.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                    collector.paths.add(self.path)
                    collector.came.notify_all()
                collector.release.wait()
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.came = threading.Condition()
        self.bodies: list[bytes] = []
        self.paths: set[str] = set()
        self.release = threading.Event()
        self.release.set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def requests(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(body) for body in self.bodies]

    @property
    def spans(self) -> list[Span]:
        return [
            span for each in self.requests for part in each.resource_spans for s in part.scope_spans for span in s.spans
        ]

    @property
    def calls(self) -> list[Span]:
        """Spans of requests, by the request's id."""
        found = [span for span in self.spans if span.kind == Span.SPAN_KIND_SERVER]
        return sorted(found, key=lambda span: str(attributes(span).get("jsonrpc.request.id")))

    def wait_for_calls(self, count: int) -> list[Span]:
        with self.came:
            assert self.came.wait_for(lambda: len(self.calls) >= count, timeout=20)
        return self.calls

    @property
    def service(self) -> set[str]:
        resources = [part.resource for each in self.requests for part in each.resource_spans]
        return {each.value.string_value for one in resources for each in one.attributes if each.key == "service.name"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.release.set()
    collector.server.shutdown()
    collector.server.server_close()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / ".git").mkdir(parents=True)
    (folder / "CLAUDE.md").write_text(f"# Zoo\n\n- {GUIDANCE}\n")
    return folder


def environment(endpoint: str, **more: str) -> dict[str, str]:
    """Of a server that sends its spans at once."""
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "20", "NO_PROXY": "127.0.0.1"}
    return {**os.environ, **own, "OPENAI_API_KEY": KEY, **LOCAL, **more}


LOCAL = {"SYMMETRA_EMBEDDING_BACKEND": "local", "SYMMETRA_STARTER_RULES": "0"}


def attributes(span: Span) -> dict[str, Any]:
    return {value.key: getattr(value.value, str(value.value.WhichOneof("value"))) for value in span.attributes}


def ended(peer: Peer) -> bytes:
    """Have a server end in time, and return what it logged."""
    peer.close()
    assert peer.seconds_to_end() < GONE_S
    assert peer.process.returncode == 0
    assert peer.process.stdout is not None
    assert peer.process.stdout.read() == b""
    assert peer.process.stderr is not None
    return peer.process.stderr.read()


def test_a_call_is_one_span_in_the_clients_trace_and_holds_no_text(project: Path, collector: Collector) -> None:
    meta = {**MODERN, "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    with started("-m", "symmetra_mcp", cwd=project, env=environment(collector.address)) as peer:
        search = {"name": "search_rules", "arguments": {"query": QUERY}}
        assert GUIDANCE in json.dumps(peer.ask(request(1, "tools/call", _meta=meta, **search)))
        wrong = {"name": "search_rules", "arguments": {"query": QUERY, "limit": 999}}
        assert peer.ask(request(2, "tools/call", _meta=meta, **wrong))["result"]["isError"]
        unknown = {"name": "no_such_tool", "arguments": {"query": QUERY}}
        assert peer.ask(request(3, "tools/call", _meta=meta, **unknown))["error"]["code"] == -32602
        collector.wait_for_calls(3)
        assert ended(peer) == b""
    assert (collector.paths, collector.service) == ({"/v1/traces"}, {"symmetra-mcp"})
    found, refused, missing = collector.calls
    assert found.name == "tools/call search_rules"
    assert found.trace_id.hex() == TRACE
    assert "error.type" not in attributes(found)
    assert attributes(refused)["error.type"] == "tool_error"
    assert attributes(missing)["error.type"] == "-32602"
    assert missing.status == Status(code=Status.STATUS_CODE_ERROR)
    assert len(found.events) == 0

    inside = {span.name: attributes(span) for span in collector.spans if span.parent_span_id == found.span_id}
    assert set(inside) == {"embeddings all-MiniLM-L6-v2", "match rules"}
    assert inside["embeddings all-MiniLM-L6-v2"] == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "local",
        "gen_ai.request.model": "all-MiniLM-L6-v2",
        "gen_ai.embeddings.dimension.count": 384,
        "symmetra.embed.texts": 1,
    }
    assert inside["match rules"] == {
        "db.system.name": "sqlite",
        "db.operation.name": "match",
        "db.collection.name": "rules",
        "symmetra.match.mode": "hybrid",
        "symmetra.match.considered": 1,
        "db.response.returned_rows": 1,
    }
    for text in (QUERY, "zebra", GUIDANCE, "giraffe", KEY):
        assert all(text.encode() not in body for body in collector.bodies)


@pytest.mark.slow
def test_a_server_over_http_sends_its_spans_too(project: Path, collector: Collector) -> None:
    meta = {**MODERN, "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    with served(project, NO_PROXY="127.0.0.1", **LOCAL, **settings) as server:
        search = request(1, "tools/call", name="search_rules", arguments={"query": QUERY}, _meta=meta)
        headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "search_rules"}
        assert GUIDANCE in json.dumps(server.ask("POST", search, **headers).message)
        assert collector.calls == []
        server.process.terminate()  # what is left is sent at the end
        assert server.process.wait(20) == 0
    (call,) = collector.calls
    assert (call.name, call.trace_id.hex()) == ("tools/call search_rules", TRACE)
    assert collector.service == {"symmetra-mcp"}
    assert server.stderr.count("\n") == 1, server.stderr


@pytest.mark.slow
def test_a_failed_embedding_is_told_by_its_kind_alone(project: Path, collector: Collector) -> None:
    """A vendor that can't be reached: the words of the error stay here."""
    vendor = {"SYMMETRA_EMBEDDING_BACKEND": "openai", "OPENAI_BASE_URL": NOWHERE, "OTEL_SERVICE_NAME": "rules-of-tests"}
    with started("-m", "symmetra_mcp", cwd=project, env=environment(collector.address, **vendor)) as peer:
        peer.ask(request(1, "tools/call", _meta=MODERN, name="search_rules", arguments={"query": QUERY}))
        collector.wait_for_calls(1)
        ended(peer)
    failed = [attributes(span) for span in collector.spans if span.name == "embeddings"]
    assert ("ProviderUnavailableError", "openai") in {
        (each.get("error.type"), each.get("gen_ai.provider.name")) for each in failed
    }
    assert all(len(span.events) == 0 and not span.status.message for span in collector.spans)
    assert collector.service == {"rules-of-tests"}
    assert all(text.encode() not in body for body in collector.bodies for text in ("zebra", "giraffe", KEY))


@pytest.mark.slow
def test_a_collector_that_is_down_is_told_once_and_delays_nothing(project: Path) -> None:
    with started("-m", "symmetra_mcp", cwd=project, env=environment(NOWHERE, OTEL_EXPORTER_OTLP_TIMEOUT="1")) as peer:
        peer.ask(request(1, "tools/call", _meta=MODERN, name="health_check", arguments={}))
        assert peer.process.stderr is not None
        told = peer.process.stderr.readline()
        assert told.startswith(b"WARNING symmetra_mcp.span_export: spans can't be sent to 127.0.0.1; ")
        for number in range(2, 6):
            peer.ask(request(number, "tools/call", _meta=MODERN, name="health_check", arguments={}))
        assert ended(peer) == b""


@pytest.mark.slow
def test_the_last_spans_are_sent_at_the_end(project: Path, collector: Collector) -> None:
    never = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}
    with started("-m", "symmetra_mcp", cwd=project, env=environment(collector.address, **never)) as peer:
        peer.ask(request(1, "tools/call", _meta=MODERN, name="health_check", arguments={}))
        assert collector.bodies == []
        ended(peer)
    assert [span.name for span in collector.calls] == ["tools/call health_check"]


@pytest.mark.slow
def test_a_collector_that_hangs_holds_no_server_back(project: Path, collector: Collector) -> None:
    collector.release.clear()
    with started("-m", "symmetra_mcp", cwd=project, env=environment(collector.address)) as peer:
        peer.ask(request(1, "tools/call", _meta=MODERN, name="health_check", arguments={}))
        ended(peer)


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, id="no-collector"),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE, "OTEL_SDK_DISABLED": "True"}, id="disabled", marks=pytest.mark.slow
        ),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": "${COLLECTOR}"}, id="unexpanded", marks=pytest.mark.slow),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE, "OTEL_TRACES_EXPORTER": "none"},
            id="no-spans",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_without_a_collector_nothing_of_its_sdk_is_imported(project: Path, variables: dict[str, str]) -> None:
    (project / ".env").write_text(f"OTEL_EXPORTER_OTLP_ENDPOINT={NOWHERE}\n")  # of the application that is built there
    asked = [request(1, "initialize", **HELLO), INITIALIZED, call(2, "search_rules", query=QUERY)]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "symmetra_mcp"],
        cwd=project,
        env={**os.environ, **LOCAL, **variables},
        input="".join(json.dumps(message) + "\n" for message in asked).encode(),
        capture_output=True,
        check=True,
    )
    assert b'"hits":[{' in done.stdout
    assert b"symmetra_mcp.telemetry" in done.stderr
    assert b"opentelemetry.sdk" not in done.stderr
    assert b"opentelemetry.exporter" not in done.stderr


@pytest.mark.slow
def test_a_missing_extra_is_told_once_and_the_server_serves(project: Path) -> None:
    code = "import sys; sys.modules['opentelemetry.sdk'] = None; from symmetra_mcp.__main__ import main; main()"
    with started("-c", code, cwd=project, env=environment(NOWHERE)) as peer:
        assert peer.ask(request(1, "tools/call", _meta=MODERN, name="health_check", arguments={}))["result"]
        logged = ended(peer).decode()
    assert logged.count("\n") == 1
    assert 'Run `pip install "symmetra-mcp[otel]"`' in logged


@pytest.mark.slow
def test_the_handshake_is_as_fast_with_a_collector(project: Path, collector: Collector) -> None:
    """It is answered before anything of OpenTelemetry is imported: at once, however long that takes."""
    (project / "slow").mkdir()
    (project / "slow" / "sitecustomize.py").write_text(
        "import sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'opentelemetry.sdk':\n"
        "            time.sleep(3)\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    with started(
        "-m", "symmetra_mcp", cwd=project, env=environment(collector.address, PYTHONPATH=str(project / "slow"))
    ) as peer:
        began = time.monotonic()
        peer.ask(request(1, "tools/list", _meta=MODERN))
        assert time.monotonic() - began < 2
        peer.ask(request(2, "tools/call", _meta=MODERN, name="health_check", arguments={}))
        assert time.monotonic() - began > 3
