"""TLS files in the supervisor."""

from __future__ import annotations

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.workers.scoreboard import ProcessCounters


def load_reloaded_files(counters: ProcessCounters, reloader: CertificateReloader | None) -> Exception | None:
    """Load the TLS files that the control process has reloaded.

    A worker that is forked later then has them, even if they are damaged by that time.

    Returns:
        Why they cannot be used; None if they are, or if there are none.
    """
    reloads = counters.reloads.local
    if counters.supervisor_reloads.local == reloads or reloader is None:
        return None
    failure = None
    try:
        result = reloader.scan()
        if result is not None:
            reloader.apply_staged(result)
    except Exception as error:  # noqa: BLE001 - the border: a fault of a file must not end all processes
        failure = error
    counters.supervisor_reloads.local = reloads
    return failure
