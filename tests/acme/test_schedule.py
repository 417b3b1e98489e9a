"""When certificates are due, under a clock that the test moves."""

from __future__ import annotations

import pytest
from attrs import evolve

from mailproxy.acme.schedule import (
    Held,
    Record,
    asks_authority,
    backoff,
    when_due,
    with_window,
    without_window,
)

DAY = 86400.0
NOW = 1_800_000_000.0
HELD = Held(begin=NOW, end=NOW + 90 * DAY, serial="a1")
DIRECTORY = "https://acme.example/directory"


def test_missing_certificate_is_due_at_once() -> None:
    assert when_due(None, Record(), "auto").at <= NOW


def test_renewal_without_window_leaves_third_of_lifetime() -> None:
    assert when_due(HELD, Record(), "auto").at == HELD.end - 30 * DAY


def test_renewal_of_six_day_certificate_leaves_two_days() -> None:
    held = evolve(HELD, end=NOW + 6 * DAY)
    assert when_due(held, Record(), "auto").at == held.end - 2 * DAY


def test_configured_renewal_is_honoured_to_the_second() -> None:
    assert when_due(HELD, Record(), 86461.0).at == HELD.end - 86461.0


def test_renewal_longer_than_lifetime_leaves_third() -> None:
    assert when_due(HELD, Record(), 400 * DAY).at == HELD.end - 30 * DAY


def test_window_of_authority_counts_for_auto_only() -> None:
    record = with_window(Record(), HELD, (NOW + DAY, NOW + 3 * DAY), 21600.0, now=NOW, random=0.5)
    assert when_due(HELD, record, "auto").at == NOW + 2 * DAY
    assert when_due(HELD, record, 10 * DAY).at == HELD.end - 10 * DAY


def test_window_keeps_its_chosen_time() -> None:
    window = (NOW + DAY, NOW + 3 * DAY)
    record = with_window(Record(), HELD, window, None, now=NOW, random=0.1)
    again = with_window(record, HELD, window, None, now=NOW + 30000, random=0.9)
    assert again.renew_at == record.renew_at
    earlier = with_window(again, HELD, (NOW - DAY, NOW), None, now=NOW + 60000, random=0.9)
    assert when_due(HELD, earlier, "auto").at < NOW  # as when the authority revokes many certificates


def test_window_of_other_certificate_is_ignored() -> None:
    record = with_window(Record(), HELD, (NOW, NOW + DAY), None, now=NOW, random=0.5)
    renewed = evolve(HELD, serial="b2")
    assert when_due(renewed, record, "auto").at == HELD.end - 30 * DAY


def test_window_after_the_end_is_ignored() -> None:
    window = (HELD.end + DAY, HELD.end + 2 * DAY)
    record = with_window(Record(), HELD, window, None, now=NOW, random=0.5)
    assert when_due(HELD, record, "auto").at == HELD.end - 30 * DAY


def test_authority_is_asked_when_it_says_so() -> None:
    assert asks_authority(HELD, Record(), NOW)
    record = with_window(Record(), HELD, (NOW + DAY, NOW + 2 * DAY), 70.0, now=NOW, random=0.5)
    assert not asks_authority(HELD, record, NOW + 69)
    assert asks_authority(HELD, record, NOW + 70)


@pytest.mark.parametrize(("asked", "seconds"), [(1.0, 60.0), (None, 21600.0), (1e7, 86400.0)])
def test_pause_between_questions_is_bounded(asked: float | None, seconds: float) -> None:
    record = without_window(Record(), HELD, NOW, asked)
    assert record.ari_due == NOW + seconds


def test_ended_certificate_is_not_asked_about() -> None:
    assert not asks_authority(HELD, Record(), HELD.end + 1)


def test_clock_that_went_back_asks_again() -> None:
    record = without_window(Record(), HELD, NOW + 300 * DAY)
    assert asks_authority(HELD, record, NOW)


def test_failures_back_off_with_jitter() -> None:
    pauses = [backoff(failures, 0.0) for failures in range(1, 9)]
    assert pauses[:4] == [60, 180, 540, 1620]
    assert pauses[-1] == 6 * 3600
    assert 60 < backoff(1, 0.5) <= 72


def test_first_hour_has_five_attempts_at_most() -> None:
    record, now, attempts = Record(), NOW, 0
    while now < NOW + 3600:
        attempts += 1
        record = record.failed(now, "no", None, 0.0)
        now = record.not_before
    assert attempts <= 5


def test_retry_after_of_authority_counts_if_longer() -> None:
    assert Record().failed(NOW, "busy", 7200.0, 0.0).not_before == NOW + 7200
    assert Record().failed(NOW, "busy", 5.0, 0.0).not_before == NOW + 60


def test_failure_keeps_due_certificate_waiting() -> None:
    record = Record().failed(NOW, "no", None, 0.0)
    due = when_due(None, record, "auto")
    assert (due.at, due.reason) == (NOW + 60, "backoff")


def test_success_forgets_failures() -> None:
    record = Record().failed(NOW, "no", None, 0.0).succeeded(NOW + 60, DIRECTORY)
    assert (record.failures, record.not_before, record.last_result) == (0, 0.0, "ok")


def test_clock_that_jumped_ahead_orders_five_certificates_a_week() -> None:
    """With a clock after the end of each new certificate, every one is due at once."""
    wrong = HELD.end + 400 * DAY
    record, issued = Record(), 0
    held = evolve(HELD, end=wrong + 10 * DAY, begin=wrong - 80 * DAY)
    while (due := when_due(held, record, "auto")).at <= wrong and issued < 20:
        issued += 1
        record = record.succeeded(wrong, DIRECTORY)
    assert issued == 5
    assert due.reason == "limit"


def test_clock_that_was_ahead_does_not_keep_waiting() -> None:
    ahead = NOW + 3650 * DAY
    record = Record().succeeded(ahead, DIRECTORY).failed(ahead, "no", None, 0.0).at(NOW)
    assert when_due(None, record, "auto").at <= NOW
    assert record.issued_at == ()


def test_pause_is_kept_by_a_clock_that_is_right() -> None:
    record = Record().failed(NOW, "busy", 7 * DAY, 0.0)
    assert record.at(NOW + 60) == record


def test_added_name_is_due_at_once() -> None:
    assert when_due(evolve(HELD, covers=False), Record(), "auto").at <= NOW


def test_revoked_certificate_is_due_at_once() -> None:
    assert when_due(HELD, Record(is_forced=True), "auto").at <= NOW


def test_record_survives_the_storage() -> None:
    record = with_window(
        Record(last_attempt=NOW, directory=DIRECTORY).failed(NOW, "no", None, 0.0).succeeded(NOW, DIRECTORY),
        HELD, (NOW, NOW + DAY), None, now=NOW, random=0.5,
    )  # fmt: skip
    import json

    assert Record.from_json(json.loads(json.dumps(record.as_json()))) == record


@pytest.mark.parametrize(
    "content", [None, {}, {"failures": "many"}, {"issued_at": ["x"]}, {"not_before": True}]
)
def test_damaged_record_has_defaults(content: dict[str, object] | None) -> None:
    assert Record.from_json(content) == Record()
