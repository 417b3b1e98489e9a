"""``show ssl cert`` and ``acme status``: the certificates in use, and those that ACME obtains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from mailproxy.admin.runtime.call import Call, CommandError
from mailproxy.certificates.acme_status import AcmeStatus
from mailproxy.net.tls.certificate import Certificate

_ACME_COLUMNS = (
    "# certificate", "section", "state", "expiration date (UTC)", "expires in", "scheduled date (UTC)", "scheduled in",
)  # fmt: skip


def show_ssl_cert(call: Call, name: str = "", *_: str) -> str:
    """Answer ``show ssl cert [FILE|NAME]``. Without one: all files, also of certificates that ACME has yet to obtain."""
    certificates, managed = call.target.certificates, {each.file: each for each in call.target.acme}
    files = {str(each.path) for each in certificates}
    missing = [each for file, each in managed.items() if file not in files]
    if not name:
        listed = dict.fromkeys([*(str(each.path) for each in certificates), *(each.file for each in missing)])
        return "".join(f"{line}\n" for line in ("# filename", *listed))
    wanted = [each for each in certificates if name == str(each.path) or name.lower() in each.names]
    details = [
        *(_details(each) + _acme_lines(managed.get(str(each.path))) for each in dict.fromkeys(wanted)),
        *(_missing(call, each) for each in missing if name == each.file or name.lower() in each.names),
    ]
    if not details:
        raise CommandError("Can't display the certificate: Not found or the certificate is a bundle!")
    return "".join(details)


def acme_status(call: Call, *_: str) -> str:
    """Answer ``acme status``: a line for each certificate, with HAProxy's columns, separated by tabs."""
    now = time.time()
    rows = [_ACME_COLUMNS, *(_acme_row(each, now) for each in call.target.acme)]
    return "".join("\t".join(row) + "\n" for row in rows)


def _acme_row(status: AcmeStatus, now: float) -> tuple[str, ...]:
    state = "Running" if status.is_running else "Scheduled"
    due = now if status.is_running else status.next_attempt
    return (
        status.file,
        status.authority,
        state,
        *_date_and_rest(status.expiry, now),
        *_date_and_rest(due, now),
    )


def _date_and_rest(moment: float | None, now: float) -> tuple[str, str]:
    """Return a moment, and how far it is: ``2026-11-30T01:00:00Z`` and ``89d 23h01m13s``."""
    if moment is None:
        return "-", "-"
    minutes, seconds = divmod(max(int(moment - now), 0), 60)
    hours, minutes = divmod(minutes, 60)
    date = f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return date, f"{hours // 24}d {hours % 24}h{minutes:02}m{seconds:02}s"


def _details(certificate: Certificate) -> str:
    names = ", ".join(f"DNS:{name}" for name in certificate.names)
    return (
        f"Filename: {certificate.path}\n"
        "Status: Used\n"
        f"notBefore: {_written(certificate.not_before)}\n"
        f"notAfter: {_written(certificate.not_after)}\n"
        f"Subject Alternative Name: {names}\n"
        f"Algorithm: {certificate.key_algorithm}\n"
    )


def _missing(call: Call, status: AcmeStatus) -> str:
    """Describe a certificate that ACME has not obtained yet: clients get a self-signed one, or are refused."""
    is_refused = call.target.config.acme[status.authority].until_ready == "refuse"
    return (
        f"Filename: {status.file}\n"
        f"Status: {'Empty' if is_refused else 'Used (self-signed)'}\n"
        f"Subject Alternative Name: {', '.join(f'DNS:{name}' for name in status.names)}\n"
        f"{_acme_lines(status)}"
    )


def _acme_lines(status: AcmeStatus | None) -> str:
    return "" if status is None else "".join(f"ACME {line}\n" for line in _facts(status))


def _facts(status: AcmeStatus) -> Iterator[str]:
    yield f"section: {status.authority}"
    if status.last_attempt is not None:
        result = "under way" if status.is_running else status.last_result
        yield f"last attempt: {_written(datetime.fromtimestamp(status.last_attempt, UTC))} {result}".rstrip()
    if status.next_attempt is not None and not status.is_running:
        yield f"next attempt: {_written(datetime.fromtimestamp(status.next_attempt, UTC))}"


def _written(moment: datetime) -> str:
    """Return a moment as OpenSSL writes it: ``Nov 29 21:15:00 2026 GMT``."""
    return f"{moment:%b} {moment.day:2} {moment:%H:%M:%S %Y} GMT"
