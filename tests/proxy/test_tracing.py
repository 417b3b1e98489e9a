"""Tracing: spans of sessions reach a collector by OTLP over HTTP, and never hold a session up."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

import mailproxy
from mailproxy.errors import ConfigError
from mailproxy.log import SessionRecord, TimedRecord, end_reasons
from mailproxy.log.end_reasons import EndReason
from mailproxy.log.tracing import SessionTracer, attributes, is_failure, traces_url
from mailproxy.testing import greet_and_echo
from tests.support.proxy.proxy_harness import ProxyHarness
from tests.support.smallest_config import smallest_config
from tests.support.worker_group import GreetingServer, WorkerGroup, configuration

TIMEOUT_S = 30.0
NANOSECONDS = 1_000_000_000


class Collector:
    """A collector: an HTTP server that keeps the spans it gets."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.status = 200
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.paths.append(self.path)
                if collector.status == 200:
                    collector.keep(ExportTraceServiceRequest.FromString(body))
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def keep(self, request: ExportTraceServiceRequest) -> None:
        for part in request.resource_spans:
            self.resources.append({each.key: each.value.string_value for each in part.resource.attributes})
            for scope in part.scope_spans:
                self.spans += scope.spans

    async def wait_for(self, count: int) -> list[Span]:
        with trio.fail_after(TIMEOUT_S):
            while len(self.spans) < count:  # noqa: ASYNC110 - another thread appends
                await trio.sleep(0.01)
        return self.spans

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setattr("mailproxy.log.tracing._INTERVAL_S", 0.01)
    collector = Collector()
    yield collector
    collector.close()


def facts(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


async def test_session_is_a_trace_with_a_span_for_each_phase(
    harness: ProxyHarness, collector: Collector
) -> None:
    server = await harness.server(greet_and_echo(b"* OK\r\n"))
    proxy = await harness.proxy(
        server.address, tls=True, tracing={"otlp": collector.url, "service": "mail-edge"}
    )
    before = time.time()
    async with await harness.dial(proxy, tls=True) as client:
        await client.receive_line()
    line = await harness.session()
    spans = {span.name: span for span in await collector.wait_for(4)}
    root = spans["session f"]
    assert {"session f", "handshake", "connect", "data"} <= set(spans)
    assert len({span.trace_id for span in spans.values()}) == 1
    assert all(span.parent_span_id == root.span_id for span in spans.values() if span is not root)
    assert not root.parent_span_id
    known = facts(root)
    assert known["mailproxy.session.id"] == line["id"]
    assert f"{known['client.address']}:{known['client.port']}" == line["client"]
    assert known["mailproxy.server"] == line["server"]
    assert known["tls.protocol.version"] == line["tls_version"]
    assert known["mailproxy.bytes_out"] == line["bytes_out"]
    assert root.status.code == Status.STATUS_CODE_UNSET
    assert abs(root.start_time_unix_nano / NANOSECONDS - before) < 5
    in_order = sorted(spans.values(), key=lambda span: span.start_time_unix_nano)
    assert max(span.end_time_unix_nano for span in in_order) == root.end_time_unix_nano
    assert spans["handshake"].end_time_unix_nano <= spans["data"].start_time_unix_nano
    assert collector.resources[0]["service.name"] == "mail-edge"
    assert collector.paths[0] == "/v1/traces"


async def test_refused_session_is_an_error(harness: ProxyHarness, collector: Collector) -> None:
    proxy = await harness.proxy(tracing={"otlp": collector.url})
    async with await harness.dial(proxy) as client:
        await client.receive_until_end()
    root = next(span for span in await collector.wait_for(2) if not span.parent_span_id)
    assert root.status.code == Status.STATUS_CODE_ERROR
    assert facts(root)["mailproxy.end"] == "no-server"


async def test_sample_of_none_sends_nothing(harness: ProxyHarness, collector: Collector) -> None:
    proxy = await harness.proxy(tracing={"otlp": collector.url, "sample": 0})
    async with await harness.dial(proxy) as client:
        await client.receive_until_end()
    await harness.session()
    await trio.sleep(0.2)
    assert collector.paths == []


async def test_failing_collector_is_logged_once(harness: ProxyHarness, collector: Collector) -> None:
    collector.status = 400
    proxy = await harness.proxy(tracing={"otlp": collector.url})
    for count in range(1, 3):
        async with await harness.dial(proxy) as client:
            await client.receive_until_end()
        with trio.fail_after(TIMEOUT_S):
            while len(collector.paths) < count:  # noqa: ASYNC110 - another thread appends
                await trio.sleep(0.01)
    (line,) = await harness.events("traces-not-sent")
    assert (line["to"], line["level"], line["lost"]) == (collector.url, "warning", 0)
    assert "400" in line["reason"]


@pytest.mark.slow
async def test_silent_collector_neither_delays_sessions_nor_the_end(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.log.tracing._EXPORT_TIMEOUT_S", 4 * TIMEOUT_S)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]  # it accepts in the kernel, and never answers
    config = mailproxy.from_mapping(harness.mapping(tracing={"otlp": f"http://127.0.0.1:{port}"}))
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            proxy: mailproxy.Proxy = await nursery.start(mailproxy.serve, config)
            for _ in range(20):
                async with await harness.dial(proxy) as client:
                    await client.receive_until_end()
            nursery.cancel_scope.cancel()
    await listener.aclose()


async def test_fault_of_the_library_is_logged_and_tracing_goes_on(
    harness: ProxyHarness, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_spans, faults = SessionTracer._make_spans, iter((ValueError("odd"),))

    def fail_once(self: SessionTracer, record: SessionRecord) -> None:
        for fault in faults:
            raise fault
        make_spans(self, record)

    monkeypatch.setattr(SessionTracer, "_make_spans", fail_once)
    proxy = await harness.proxy(tracing={"otlp": collector.url})
    async with await harness.dial(proxy) as client:
        await client.receive_until_end()
    (line,) = await harness.events("helper-failed")
    assert (line["helper"], line["fault"]) == ("tracing", "ValueError('odd')")
    with trio.fail_after(TIMEOUT_S):
        while not collector.spans:  # the first sessions may end before it goes on
            async with await harness.dial(proxy) as client:
                await client.receive_until_end()
            await trio.sleep(0.01)


async def test_lost_sessions_are_logged(harness: ProxyHarness, collector: Collector) -> None:
    proxy = await harness.proxy(tracing={"otlp": collector.url})
    log = proxy._process.service.log
    (tracer,) = [each.__self__ for each in log._subscribers if hasattr(each, "__self__")]
    assert isinstance(tracer, SessionTracer)
    tracer._lost = 3
    async with await harness.dial(proxy) as client:
        await client.receive_until_end()
    (line,) = await harness.events("traces-not-sent")
    assert (line["lost"], line["reason"]) == (3, "more sessions ended than could be sent")


def test_queue_that_is_full_counts_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailproxy.log.tracing._RECORDS_MAX", 2)
    tracer = SessionTracer("http://127.0.0.1:9", service="s", share=1.0)
    for _ in range(5):
        tracer.add(ended(end_reasons.CLIENT_CLOSED))
    assert tracer._lost == 3


def ended(end: EndReason, **more: Any) -> SessionRecord:
    record = TimedRecord(
        id=26, accepted=1.5, frontend="f", bind="b", tls=False, client="[2001:db8::1]:4", **more
    )
    record.end, record.total_ms = end, 5
    return record


def test_attributes_leave_out_what_is_unknown() -> None:
    known = attributes(ended(end_reasons.NO_SERVER))
    assert (known["client.address"], known["client.port"], known["mailproxy.session.id"]) == (
        "2001:db8::1",
        4,
        "1a",
    )
    assert not {"server.address", "tls.cipher", "mailproxy.backend"} & set(known)


@pytest.mark.parametrize(
    ("end", "is_error"),
    [
        (end_reasons.CLIENT_CLOSED, False),
        (end_reasons.SERVER_CLOSED, False),
        (end_reasons.CLIENT_ABORTED, False),
        (end_reasons.KILLED, False),
        (end_reasons.SERVER_ABORTED, True),
        (end_reasons.CONNECT_TIMEOUT, True),
        (end_reasons.QUEUE_FULL, True),
    ],
)
def test_faults_of_servers_and_proxy_are_errors(end: EndReason, is_error: bool) -> None:
    assert is_failure(ended(end)) is is_error


@pytest.mark.parametrize(
    ("url", "traces"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://c.example/otlp/", "https://c.example/otlp/v1/traces"),
        ("http://c.example/v1/traces", "http://c.example/v1/traces"),
    ],
)
def test_path_of_traces_is_added_to_the_base(url: str, traces: str) -> None:
    assert traces_url(url) == traces


@pytest.mark.slow
async def test_workers_send_their_sessions(collector: Collector, tmp_path: Path) -> None:
    server = GreetingServer("s1")
    text = configuration(server, more=f'[tracing]\notlp = "{collector.url}"')
    with WorkerGroup(text, tmp_path) as group:
        group.wait_for("mailproxy is ready")
        for worker in (0, 1):
            group.connect_to_worker(worker).close()
        await collector.wait_for(4)
        group.send(signal.SIGTERM)
        group.wait()
    server.close()
    assert {facts(span)["mailproxy.server"] for span in collector.spans if not span.parent_span_id} == {"s1"}


@pytest.mark.slow
def test_nothing_is_imported_without_tracing() -> None:
    code = (
        "import sys, mailproxy.app, mailproxy.proxy.service, mailproxy.log\n"
        "sys.exit(any(name.split('.')[0] in ('opentelemetry', 'requests', 'textual') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("url", "fact"),
    [
        ("127.0.0.1:4318", "is not allowed: a URL such as"),
        ("ftp://127.0.0.1", "is not allowed: a URL such as"),
        ("http://u:p@127.0.0.1:4318", "has a user or a password"),
        ("http://127.0.0.1:99999", "Port out of range"),
    ],
)
def test_url_must_be_one_of_http(url: str, fact: str) -> None:
    with pytest.raises(ConfigError, match=fact):
        smallest_config(f'tracing.otlp = "{url}"')
