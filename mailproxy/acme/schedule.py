"""When a certificate is due: renewal times, the authority's window, back-off. Synchronous; times are arguments.

All times are seconds since 1970, by the wall clock: dates of certificates mean nothing else. The clock may
jump. So nothing sleeps until a time, and every decision is made again from what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attrs import evolve, frozen

_FIRST_BACKOFF_S = 60.0
# Five attempts in the first hour: more failed validations for a name Let's Encrypt does not allow.
_BACKOFF_FACTOR = 3.0
_MAX_BACKOFF_S = 6 * 3600.0
_BACKOFF_JITTER = 0.2
# Let's Encrypt issues five certificates with the same names in a week.
_WEEK_S = 7 * 86400.0
_ISSUED_PER_WEEK = 5
# The longest back-off and the longest Retry-After that is honoured are below this.
_MAX_WAIT_S = 8 * 86400.0
_ARI_INTERVAL_S = 6 * 3600.0  # if the authority does not say another one (RFC 9773 section 4.3.2)
_ARI_MIN_S = 60.0
_ARI_MAX_S = 86400.0


@frozen(kw_only=True)
class Record:
    """What is known of a certificate's attempts. It is stored, so that a restart does not forget a back-off.

    Attributes:
        last_attempt: When the last attempt began; None before the first.
        last_result: ``ok``, or why it failed; empty before the first.
        failures: Failed attempts in a row.
        not_before: No attempt before this time, because of failures or the authority's ``Retry-After``.
        issued_at: When the latest certificates were issued, a week back at most.
        renew_at: The time chosen in the authority's window; None without one.
        window_end: The end of that window.
        ari_due: When the authority is asked for its window again.
        serial: The certificate that ``renew_at`` is for.
        is_forced: Whether to renew although nothing is due, as after a revocation.
        is_compromised: Whether the next certificate must have another key.
        directory: The directory of the authority that has issued the certificate.
    """

    last_attempt: float | None = None
    last_result: str = ""
    failures: int = 0
    not_before: float = 0.0
    issued_at: tuple[float, ...] = ()
    renew_at: float | None = None
    window_end: float | None = None
    ari_due: float = 0.0
    serial: str = ""
    is_forced: bool = False
    is_compromised: bool = False
    directory: str = ""

    def failed(self, now: float, reason: str, retry_after: float | None, random: float) -> Record:
        """Return the record after a failed attempt.

        Args:
            now: The time.
            reason: Why it failed.
            retry_after: The seconds that the authority asks for; None if it does not.
            random: A number from 0 to 1.
        """
        pause = backoff(self.failures + 1, random)
        return evolve(
            self,
            last_result=reason,
            failures=self.failures + 1,
            not_before=now + max(pause, retry_after or 0.0),
        )

    def succeeded(self, now: float, directory: str) -> Record:
        """Return the record after a certificate was issued."""
        recent = tuple(each for each in self.issued_at if now - _WEEK_S < each <= now)
        return Record(
            last_attempt=self.last_attempt,
            last_result="ok",
            issued_at=(*recent, now)[-2 * _ISSUED_PER_WEEK :],
            directory=directory,
        )

    def at(self, now: float) -> Record:
        """Return the record without what a clock that was ahead has written.

        Otherwise a failure at a wrong time would keep a certificate waiting until that time comes.
        """
        return evolve(
            self,
            not_before=self.not_before if self.not_before - now <= _MAX_WAIT_S else 0.0,
            issued_at=tuple(each for each in self.issued_at if each <= now),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the record for the storage."""
        return {name: getattr(self, name) for name in _TYPES}

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> Record:
        """Return a stored record. What is damaged has its default."""
        values: dict[str, Any] = {}
        for name, types in _TYPES.items():
            value = (content or {}).get(name)
            if isinstance(value, list):
                value = tuple(each for each in value if isinstance(each, (int, float)))
            if isinstance(value, types) and (types is not _NUMBER or not isinstance(value, bool)):
                values[name] = value
        return cls(**values)


_NUMBER = (int, float)
_TYPES: Mapping[str, Any] = {
    "last_attempt": _NUMBER,
    "last_result": str,
    "failures": int,
    "not_before": _NUMBER,
    "issued_at": tuple,
    "renew_at": _NUMBER,
    "window_end": _NUMBER,
    "ari_due": _NUMBER,
    "serial": str,
    "is_forced": bool,
    "is_compromised": bool,
    "directory": str,
}


@frozen(kw_only=True)
class Held:
    """A certificate that is in the storage.

    Attributes:
        begin: The begin of its validity.
        end: Its end.
        serial: Its serial number.
        covers: Whether it has all names, the key type and the authority that are configured now.
    """

    begin: float
    end: float
    serial: str
    covers: bool = True


@frozen(kw_only=True)
class Due:
    """When a certificate is to be obtained.

    Attributes:
        at: The time; in the past if it is due now.
        reason: Why.
    """

    at: float
    reason: Literal["missing", "names", "forced", "window", "renewal", "backoff", "limit"]


def when_due(held: Held | None, record: Record, renew_before: float | Literal["auto"]) -> Due:
    """Return when a certificate is due.

    Args:
        held: What is in the storage; None without a certificate.
        record: What is known of its attempts.
        renew_before: As configured: seconds before the end, or ``auto``.
    """
    due = _wanted(held, record, renew_before)
    if due.at < record.not_before:
        return Due(at=record.not_before, reason="backoff")
    recent = [each for each in record.issued_at if each > due.at - _WEEK_S]
    if len(recent) >= _ISSUED_PER_WEEK and due.reason in ("renewal", "window", "names"):
        freed = sorted(recent)[-_ISSUED_PER_WEEK] + _WEEK_S
        if held is not None and freed < held.end and freed > due.at:
            return Due(at=freed, reason="limit")
    return due


def _wanted(held: Held | None, record: Record, renew_before: float | Literal["auto"]) -> Due:
    if held is None:
        return Due(at=0.0, reason="missing")
    if record.is_forced:
        return Due(at=0.0, reason="forced")
    if not held.covers:
        return Due(at=0.0, reason="names")
    if renew_before == "auto" and record.renew_at is not None and record.serial == held.serial:
        return Due(at=min(record.renew_at, held.end), reason="window")
    lifetime = held.end - held.begin
    before = lifetime / 3 if renew_before == "auto" or renew_before >= lifetime else renew_before
    return Due(at=held.end - before, reason="renewal")


def asks_authority(held: Held, record: Record, now: float) -> bool:
    """Whether it is time to ask the authority for its renewal window.

    A certificate that has ended is renewed in any case (RFC 9773 section 4.3).
    """
    is_clock_back = record.ari_due - now > _ARI_MAX_S
    return now < held.end and (record.serial != held.serial or now >= record.ari_due or is_clock_back)


def with_window(
    record: Record,
    held: Held,
    window: tuple[float, float],
    retry_after: float | None,
    *,
    now: float,
    random: float,
) -> Record:
    """Return the record with the authority's window. The time in it is chosen once, at random."""
    start, end = window
    if start >= held.end:  # it makes no sense, and would let the certificate end
        return without_window(record, held, now, retry_after)
    is_same = record.serial == held.serial and record.window_end == end and record.renew_at is not None
    renew_at = record.renew_at if is_same else start + (end - start) * random
    pause = min(max(retry_after or _ARI_INTERVAL_S, _ARI_MIN_S), _ARI_MAX_S)
    return evolve(record, renew_at=renew_at, window_end=end, ari_due=now + pause, serial=held.serial)


def without_window(record: Record, held: Held, now: float, retry_after: float | None = None) -> Record:
    """Return the record after the authority did not say a window. One that is known stays in use."""
    is_same = record.serial == held.serial
    pause = min(max(retry_after or _ARI_INTERVAL_S, _ARI_MIN_S), _ARI_MAX_S)
    return evolve(
        record,
        renew_at=record.renew_at if is_same else None,
        window_end=record.window_end if is_same else None,
        ari_due=now + pause,
        serial=held.serial,
    )


def backoff(failures: int, random: float) -> float:
    """Return the seconds after a number of failures in a row: 1, 3, 9 minutes and so on, 6 hours at most.

    Up to a fifth is added at random, so that machines that failed together do not try again together.
    """
    exponent = min(failures - 1, 20)
    return min(_FIRST_BACKOFF_S * _BACKOFF_FACTOR**exponent, _MAX_BACKOFF_S) * (1 + _BACKOFF_JITTER * random)
