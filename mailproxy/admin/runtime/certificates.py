"""``show ssl cert``: the certificates in use."""

from __future__ import annotations

from datetime import datetime

from mailproxy.admin.runtime.call import Call, CommandError
from mailproxy.net.tls.certificate import Certificate


def show_ssl_cert(call: Call, name: str = "", *_: str) -> str:
    """Answer ``show ssl cert [FILE|NAME]``. Without one: all files."""
    certificates = call.target.certificates
    if not name:
        return "".join(
            f"{line}\n" for line in ("# filename", *dict.fromkeys(str(each.path) for each in certificates))
        )
    wanted = [each for each in certificates if name == str(each.path) or name.lower() in each.names]
    if not wanted:
        raise CommandError("Can't display the certificate: Not found or the certificate is a bundle!")
    return "".join(map(_details, dict.fromkeys(wanted)))


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


def _written(moment: datetime) -> str:
    """Return a moment as OpenSSL writes it: ``Nov 29 21:15:00 2026 GMT``."""
    return f"{moment:%b} {moment.day:2} {moment:%H:%M:%S %Y} GMT"
