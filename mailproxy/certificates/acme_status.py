"""How a certificate is that is obtained by ACME: for lists, metrics and the status page.

It is here, and not in ``mailproxy.acme``, so that what shows it does not load that package.
"""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class AcmeStatus:
    """What operators see of a certificate: in lists, metrics and on the status page.

    Attributes:
        name: Its first DNS name.
        names: All of its names.
        key_type: The type of its key.
        authority: The name of the ``[acme.NAME]`` table.
        file: Its file.
        expiry: The end of its validity; None without a certificate.
        last_attempt: When the last attempt began; None before the first.
        last_result: ``ok``, or why it failed; empty before the first.
        next_attempt: When the next attempt is due.
        failures: Failed attempts in a row.
        is_running: Whether it is being obtained now.
    """

    name: str
    names: tuple[str, ...]
    key_type: str
    authority: str
    file: str
    expiry: float | None = None
    last_attempt: float | None = None
    last_result: str = ""
    next_attempt: float | None = None
    failures: int = 0
    is_running: bool = False
