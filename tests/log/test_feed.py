"""Subscribers of the log: each session and event as a value, whatever the targets get."""

from __future__ import annotations

import time

from mailproxy.log import EventRecord, Log, Record, SessionRecord, end_reasons
from mailproxy.log.events import READY, STOPPED


def ended_session() -> SessionRecord:
    record = SessionRecord(id=1, accepted=0.0, frontend="f", bind="b", tls=False)
    record.end = end_reasons.CLIENT_CLOSED
    return record


def test_subscriber_gets_sessions_and_events_without_targets() -> None:
    log, records = Log([]), list[Record]()
    log.subscribe(records.append)
    session, before = ended_session(), time.time()
    log.session(session)
    log.event(READY, "ready", workers=2)
    assert records[0] is session
    event = records[1]
    assert isinstance(event, EventRecord)
    assert (event.event, event.message, event.data) == (READY, "ready", {"workers": 2})
    assert before <= event.time <= time.time()


def test_subscriber_gets_no_suppressed_event() -> None:
    log, records = Log([], suppressed=[READY]), list[Record]()
    log.subscribe(records.append)
    log.event(READY, "ready")
    log.event(STOPPED, "stopped")
    assert [each.event for each in records if isinstance(each, EventRecord)] == [STOPPED]


def test_unsubscribed_gets_nothing_and_others_go_on() -> None:
    log, first, second = Log([]), list[Record](), list[Record]()
    log.subscribe(first.append)
    log.subscribe(second.append)
    log.unsubscribe(first.append)
    log.session(ended_session())
    assert (len(first), len(second)) == (0, 1)
