"""Sessions as spans of OpenTelemetry, sent by OTLP over HTTP. Imported only if the configuration asks for it.

A session pays for putting its record into a queue. A thread makes the spans and sends them, so neither the
collector nor the library can hold the event loop up. What does not fit into the queue is lost, and counted.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
from collections.abc import Callable, Sequence

import trio
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from mailproxy.log.end_reasons import EndedBy
from mailproxy.log.events import TRACES_NOT_SENT
from mailproxy.log.feed import Record
from mailproxy.log.record import SessionRecord, TimedRecord
from mailproxy.log.writer import Log
from mailproxy.version import __version__

_RECORDS_MAX = 4096  # about 4 MB, some seconds of a busy process
_BATCH_MAX = 256  # sessions in one request, about 1,000 spans
_INTERVAL_S = 0.5  # between the first session of a batch and its request
_EXPORT_TIMEOUT_S = 5.0  # for a request with its repetitions
_LOST_INTERVAL_S = 60.0
_TOO_MANY = "more sessions ended than could be sent"
_FINISH_TIMEOUT_S = 2.0  # for the last sessions, as for the log
_PATH = "/v1/traces"
_NANOSECONDS = 1_000_000_000


class _Collector(SpanProcessor):
    """Keeps the spans that have ended and are sampled."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span."""
        if span.context is not None and span.context.trace_flags.sampled:
            self.spans.append(span)


class _LastMessage(logging.Handler):
    """Remembers why the library could not send, which it only writes to its logger."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Remember a message."""
        self.text = record.getMessage()


class SessionTracer:
    """Makes spans of sessions that have ended, and sends them.

    Args:
        url: The collector's base URL. ``/v1/traces`` is added to it.
        service: The name of the service in the traces.
        share: The part of the sessions that is sent, from 0 to 1.
    """

    def __init__(self, url: str, *, service: str, share: float) -> None:
        self._url = url
        self._messages = _LastMessage()
        logger = logging.getLogger("opentelemetry")
        logger.propagate = False  # or it would write to standard error
        logger.addHandler(self._messages)
        provider = TracerProvider(
            resource=Resource.create({"service.name": service, "service.version": __version__}),
            sampler=TraceIdRatioBased(share),
            shutdown_on_exit=False,
        )
        self._collector = _Collector()
        provider.add_span_processor(self._collector)
        self._tracer = provider.get_tracer("mailproxy", __version__)
        self._records: queue.Queue[SessionRecord | None] = queue.Queue(_RECORDS_MAX)
        self._is_stopping = threading.Event()
        self._lost = 0
        self._is_failing = False
        self._reported_at = -math.inf  # when losses were logged

    def add(self, record: Record) -> None:
        """Take a session. It is a `Subscriber`, and only called in the event loop."""
        if isinstance(record, SessionRecord):
            try:
                self._records.put_nowait(record)
            except queue.Full:
                self._lost += 1

    async def run(self, log: Log) -> None:
        """Send the sessions that ``log`` gets, until cancelled.

        Cancellation:
            The last sessions are sent, for two seconds at most.
        """
        token, done = trio.lowlevel.current_trio_token(), trio.Event()

        def post(function: Callable[..., object], *arguments: object) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(function, *arguments)

        self._is_stopping.clear()
        exporter = OTLPSpanExporter(endpoint=traces_url(self._url), timeout=_EXPORT_TIMEOUT_S)

        faults: list[Exception] = []

        def export_all() -> None:
            try:
                self._export_all(exporter, lambda reason: post(self._report, log, reason))
            except Exception as fault:  # noqa: BLE001 - raised again in the event loop
                faults.append(fault)
            finally:
                post(done.set)

        threading.Thread(target=export_all, name="mailproxy tracing", daemon=True).start()
        log.subscribe(self.add)
        try:
            await done.wait()  # before the end of the proxy, only a fault of the library sets it
        finally:
            log.unsubscribe(self.add)
            self._is_stopping.set()
            with contextlib.suppress(queue.Full):
                self._records.put_nowait(None)  # wakes the thread
            with trio.CancelScope(deadline=trio.current_time() + _FINISH_TIMEOUT_S, shield=True):
                await done.wait()
            exporter.shutdown()  # type: ignore[no-untyped-call]  # ends a request that is being repeated
        raise faults[0]

    def _report(self, log: Log, reason: str) -> None:
        """Log that spans cannot be sent, once until they can; then how many sessions were lost, once a minute at most."""
        is_due = trio.current_time() >= self._reported_at + _LOST_INTERVAL_S
        if reason and not self._is_failing:
            self._log_not_sent(log, f"traces cannot be sent to {self._url}: {reason}", reason)
        elif not reason and self._lost and is_due:
            s = "" if self._lost == 1 else "s"
            text = f"traces to {self._url} lack {self._lost} session{s}: {_TOO_MANY}"
            self._log_not_sent(log, text, _TOO_MANY)
        self._is_failing = bool(reason)

    def _log_not_sent(self, log: Log, message: str, reason: str) -> None:
        lost, self._lost = self._lost, 0
        self._reported_at = trio.current_time()
        log.event(TRACES_NOT_SENT, message, to=self._url, reason=reason, lost=lost)

    # In the thread

    def _export_all(self, exporter: OTLPSpanExporter, report: Callable[[str], object]) -> None:
        while True:
            batch = self._next_batch()
            for record in batch:
                self._make_spans(record)
            spans, self._collector.spans = self._collector.spans, []
            if spans:
                self._messages.text = ""
                result = exporter.export(spans)
                report("" if result is SpanExportResult.SUCCESS else self._messages.text or "no answer")
            if self._is_stopping.is_set() and self._records.empty():
                return

    def _next_batch(self) -> Sequence[SessionRecord]:
        """Wait for a session, then for those that end soon after it."""
        batch = [self._records.get()]
        self._is_stopping.wait(_INTERVAL_S)
        with contextlib.suppress(queue.Empty):
            while len(batch) < _BATCH_MAX:
                batch.append(self._records.get_nowait())
        return [record for record in batch if record is not None]

    def _make_spans(self, record: SessionRecord) -> None:
        start = int(record.accepted * _NANOSECONDS)
        steps = record.steps if isinstance(record, TimedRecord) else ()
        end = start + int((steps[-1].end if steps else record.total_ms / 1000) * _NANOSECONDS)
        session = self._tracer.start_span(
            f"session {record.frontend}",
            kind=SpanKind.SERVER,
            start_time=start,
            attributes=attributes(record),
        )
        context = set_span_in_context(session)
        for step in steps:
            span = self._tracer.start_span(
                step.phase.value, context, start_time=start + int(step.begin * _NANOSECONDS)
            )
            span.end(start + int(step.end * _NANOSECONDS))
        if is_failure(record):
            assert record.end is not None  # noqa: S101 - it is one
            session.set_status(Status(StatusCode.ERROR, record.detail or record.end.name))
        session.end(end)


def traces_url(url: str) -> str:
    """Return where traces go below the base URL of a collector (OTLP/HTTP, "Endpoint URLs")."""
    url = url.rstrip("/")
    return url if url.endswith(_PATH) else url + _PATH


def is_failure(record: SessionRecord) -> bool:
    """Whether a session ended because of a server, a timeout or the proxy."""
    end = record.end
    return (
        end is not None and end.state != "--" and end.by in (EndedBy.SERVER, EndedBy.TIMEOUT, EndedBy.PROXY)
    )


def attributes(record: SessionRecord) -> dict[str, str | int | bool]:
    """Return the facts of a session as attributes, with OpenTelemetry's names where it has some."""
    client, _, client_port = record.client.rpartition(":")
    server, _, server_port = record.server_address.rpartition(":")
    facts: dict[str, str | int | bool | None] = {
        "client.address": client.strip("[]"),
        "client.port": _port(client_port),
        "server.address": server.strip("[]"),
        "server.port": _port(server_port),
        "network.transport": "tcp",
        "tls.protocol.version": record.tls_version,
        "tls.cipher": record.tls_cipher,
        "tls.client.server_name": record.sni,
        "tls.next_protocol": record.alpn,
        "mailproxy.session.id": f"{record.id:x}",
        "mailproxy.frontend": record.frontend,
        "mailproxy.bind": record.bind,
        "mailproxy.backend": record.backend,
        "mailproxy.server": record.server,
        "mailproxy.end": record.end.name if record.end is not None else None,
        "mailproxy.detail": record.detail,
        "mailproxy.retries": record.retries,
        "mailproxy.redispatched": record.redispatched,
        "mailproxy.bytes_in": record.bytes_in,
        "mailproxy.bytes_out": record.bytes_out,
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _port(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
