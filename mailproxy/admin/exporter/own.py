"""The metrics that HAProxy has not: ends, histograms, TLS, certificates, and how the processes are doing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter

from mailproxy.admin.exporter import names
from mailproxy.admin.exporter.names import Metric
from mailproxy.admin.exporter.rows import Sample
from mailproxy.admin.target import Target
from mailproxy.certificates.acme_status import AcmeStatus
from mailproxy.log.end_reasons import END_REASONS
from mailproxy.metrics import sessions as layout
from mailproxy.metrics.figures import Figures
from mailproxy.metrics.histogram import BYTES, MILLISECONDS, Histogram
from mailproxy.metrics.process import LINES_LOST, LOOP_LAG_US, PROCESS, RELAY_TURNS, RESTARTS
from mailproxy.metrics.servers import CHECK_DURATIONS
from mailproxy.net.tls.certificate import Certificate

HistogramSample = tuple[Metric, tuple[str, ...], Histogram, float]
"""A metric, the values of its labels, its histogram, and what bounds and sum are multiplied with."""

_MS = 0.001
_HISTOGRAMS = (
    (names.QUEUE_SECONDS, layout.QUEUE, MILLISECONDS, _MS),
    (names.CONNECT_SECONDS, layout.CONNECT, MILLISECONDS, _MS),
    (names.HANDSHAKE_SECONDS, layout.HANDSHAKE, MILLISECONDS, _MS),
    (names.SESSION_SECONDS, layout.TOTAL, MILLISECONDS, _MS),
    (names.SESSION_BYTES, layout.TOTAL_BYTES, BYTES, 1),
)


def own_samples(target: Target) -> Iterator[Sample]:
    """Yield the samples of all metrics but histograms."""
    figures = target.figures
    for key, cells in sorted(figures.blocks(layout.LOGGED), key=itemgetter(0)):
        for end, number in zip(END_REASONS, cells, strict=False):
            if number:
                yield names.SESSIONS_ENDED, (*key, end.name), number
    for key, cells in figures.blocks(layout.TLS):
        yield names.TLS_SESSIONS, key, cells[0]
    for name, expiry in certificate_ends(target.certificates):
        yield names.CERTIFICATE_EXPIRY, (name,), expiry
    for status in target.acme:
        yield from _acme_samples(status)
    for key, cells in figures.blocks(layout.PAUSES):
        yield names.ACCEPT_PAUSES, key, cells[0]
    process: Sequence[int] = figures.sums.get((PROCESS,), (0, 0, 0))
    yield names.RELAY_TURNS, (), process[RELAY_TURNS]
    yield names.WORKER_RESTARTS, (), figures.sums.get((RESTARTS,), (0,))[0]
    yield names.LOG_LINES_LOST, (), process[LINES_LOST]
    yield names.LOOP_LAG, (), process[LOOP_LAG_US] / 1_000_000


def _acme_samples(status: AcmeStatus) -> Iterator[Sample]:
    labels = (status.file, status.authority)
    if status.last_attempt is not None:
        yield names.ACME_LAST_ATTEMPT, labels, status.last_attempt
    if status.last_result:
        yield names.ACME_LAST_SUCCESS, labels, int(status.last_result == "ok")
    yield names.ACME_FAILURES, labels, status.failures
    if status.next_attempt is not None:
        yield names.ACME_NEXT_ATTEMPT, labels, status.next_attempt


def histograms(figures: Figures) -> Iterator[HistogramSample]:
    """Yield the histograms, each with at least one value."""
    logged = sorted(figures.blocks(layout.LOGGED), key=itemgetter(0))
    for metric, start, bounds, factor in _HISTOGRAMS:
        for key, cells in logged:
            histogram = Histogram.read(cells, start, bounds)
            if histogram.count:
                yield metric, key, histogram, factor
    for key, cells in figures.blocks(CHECK_DURATIONS):
        yield names.CHECK_SECONDS, key, Histogram.read(cells, 0, MILLISECONDS), _MS


def certificate_ends(certificates: Sequence[Certificate]) -> Iterator[tuple[str, int]]:
    """Yield the file of each certificate, and its end in seconds since 1970. A file that is there twice comes once."""
    ends = {str(each.path): int(each.not_after.timestamp()) for each in certificates}
    yield from ends.items()
