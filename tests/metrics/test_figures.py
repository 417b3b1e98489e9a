"""What sessions have come to, summed over processes."""

import pytest

from mailproxy.log import end_reasons
from mailproxy.log.record import SessionRecord
from mailproxy.metrics import sessions as layout
from mailproxy.metrics.board import LocalBoard
from mailproxy.metrics.figures import Figures
from mailproxy.metrics.histogram import BYTES, MILLISECONDS, Histogram
from mailproxy.metrics.sessions import SessionCounter, note_lost_sessions


def record(**values: object) -> SessionRecord:
    facts: dict[str, object] = {
        "id": 1, "accepted": 0.0, "frontend": "imap", "bind": "b", "tls": False, "backend": "dovecot", "server": "d1",
        "end": end_reasons.CLIENT_CLOSED, "frontend_sessions": 1,
    }  # fmt: skip
    return SessionRecord(**(facts | values))  # type: ignore[arg-type]


def run(counter: SessionCounter, session: SessionRecord, *, is_logged: bool = True) -> None:
    counter.start(session.frontend, session.bind)
    if session.backend:
        counter.dispatch(session.backend)
    counter.end(session, 0, 0, is_logged=is_logged)


def test_sums_are_over_processes_binds_and_backends() -> None:
    boards = [LocalBoard(), LocalBoard()]
    one, other = map(SessionCounter, boards)
    run(one, record(bytes_in=10, bytes_out=100))
    run(one, record(bind="c", bytes_in=1, bytes_out=2, server="d2"))
    run(other, record(bytes_in=3, bytes_out=4, end=end_reasons.SERVER_ABORTED))
    run(other, record(backend="", server="", end=end_reasons.REJECTED))
    figures = Figures.read(boards)
    frontend = figures.frontend("imap")
    assert (frontend.sessions, frontend.bytes_in, frontend.bytes_out) == (4, 14, 106)
    assert (frontend.server_aborts, frontend.denied_requests, frontend.failures) == (1, 1, 2)
    assert (figures.listener("imap", "b").sessions, figures.listener("imap", "c").bytes_in) == (3, 1)
    assert (figures.backend("dovecot").sessions, figures.server("dovecot", "d1").bytes_out) == (3, 104)
    assert figures.frontend("pop3").sessions == 0


def test_live_sessions_are_counted_once() -> None:
    class Live:
        record = record()
        counted_in = counted_out = 0
        bytes_in, bytes_out = 30, 40

    board, live = LocalBoard(), Live()
    counter = SessionCounter(board)
    counter.start("imap", "b")
    for _ in range(2):
        counter.count_live([live])
        assert Figures.read([board]).frontend("imap").bytes_in == 30
    assert Figures.read([board]).open_sessions("imap", "b") == 1
    live.record.bytes_in, live.record.bytes_out = 31, 45
    counter.end(live.record, live.counted_in, live.counted_out, is_logged=True)
    traffic = Figures.read([board]).server("dovecot", "d1")
    assert (traffic.bytes_in, traffic.bytes_out, traffic.sessions) == (31, 45, 1)


def test_lost_sessions_are_not_open() -> None:
    board = LocalBoard()
    counter = SessionCounter(board)
    run(counter, record())
    counter.start("imap", "b")
    note_lost_sessions(board)  # another process takes over
    SessionCounter(board).start("imap", "b")
    figures = Figures.read([board])
    assert (figures.listener("imap", "b").sessions, figures.open_sessions("imap", "b")) == (3, 1)


def test_logged_sessions_have_ends_and_histograms() -> None:
    board = LocalBoard()
    counter = SessionCounter(board)
    run(counter, record(bytes_in=200, bytes_out=56, total_ms=1000, connect_ms=3, queue_ms=0))
    run(counter, record(total_ms=700_000_000, end=end_reasons.KILLED))
    run(counter, record(total_ms=9), is_logged=False)
    ((_, cells),) = Figures.read([board]).blocks(layout.LOGGED)
    total = Histogram.read(cells, layout.TOTAL, MILLISECONDS)
    assert (total.count, total.sum) == (2, 700_001_000)
    assert dict(zip(total.bounds, total.counts, strict=False))[1000] == 1
    assert total.counts[-2:] == (1, 2)
    assert Histogram.read(cells, layout.CONNECT, MILLISECONDS).count == 1
    assert Histogram.read(cells, layout.TOTAL_BYTES, BYTES).counts[0] == 2
    assert cells[layout.END_INDEX["killed"]] == 1


@pytest.mark.parametrize("values", [[5], [0, 10], [7] * 600 + [9] * 600])
def test_average_is_over_512_sessions(values: list[int]) -> None:
    board = LocalBoard()
    counter = SessionCounter(board)
    average = 0.0
    for number, value in enumerate(values, 1):
        run(counter, record(total_ms=value, queue_ms=value, connect_ms=value))
        average += (value - average) / min(number, 512)
    traffic = Figures.read([board]).backend("dovecot")
    for times in (traffic.queue, traffic.connect, traffic.total):
        assert times.average == pytest.approx(average, abs=0.001)
        assert times.longest == max(values)
