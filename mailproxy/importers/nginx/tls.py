"""TLS towards clients and servers, from the ssl and proxy_ssl directives."""

from __future__ import annotations

from mailproxy.importers.draft import Table
from mailproxy.importers.models import HAS_TLS13_SUITES
from mailproxy.importers.nginx.reader import Directive
from mailproxy.importers.nginx.scope import Scope
from mailproxy.importers.place import Origin

_VERSIONS = {"TLSv1.2": "1.2", "TLSv1.3": "1.3"}
_OLD = ("SSLv2", "SSLv3", "TLSv1", "TLSv1.1")
_VERIFY = {"on": "required", "optional": "optional", "optional_no_ca": "optional"}


def client_tls(scope: Scope) -> Table:
    """Return the TLS towards clients of a server block."""
    tls = Table()
    _certificates(tls, scope)
    _versions(tls, scope, "ssl_protocols")
    _text(tls, scope, "ssl_ciphers", "ciphers")
    _client_certificates(tls, scope)
    if (tickets := scope.last("ssl_session_tickets")) is not None and tickets.arguments[0] == "off":
        tls.set("tickets", value=False, source=tickets)
    if (curves := scope.last("ssl_ecdh_curve")) is not None and curves.arguments[0] != "auto":
        if HAS_TLS13_SUITES or ":" not in curves.arguments[0]:
            tls.set("curves", curves.arguments[0], curves)
        else:
            scope.context.report.loss(
                curves.place,
                curves.name,
                "several groups can be chosen from Python 3.15 on: OpenSSL's are used",
            )
    for command in scope.all("ssl_conf_command"):
        _command(tls, command, scope)
    if (alpn := scope.last("ssl_alpn")) is not None:
        tls.set("alpn", list(alpn.arguments), alpn)
    if (reject := scope.last("ssl_reject_handshake")) is not None and reject.arguments[0] == "on":
        tls.set("strict_sni", value=True, source=reject)
    return tls


def _certificates(tls: Table, scope: Scope) -> None:
    certificates, keys = scope.all("ssl_certificate"), scope.all("ssl_certificate_key")
    rows = []
    for index, certificate in enumerate(certificates):
        path = certificate.arguments[0] if certificate.arguments else ""
        if not path or path.startswith("data:") or "$" in path:
            scope.context.report.loss(
                certificate.place, "ssl_certificate", f"{path or 'nothing'} is no file here: left out"
            )
            continue
        row = Table(place=certificate.place, comments=certificate.take_comments())
        row.set("certificate", path, Origin(certificate.place))
        if index < len(keys) and keys[index].arguments and keys[index].arguments[0] != path:
            row.set("key", keys[index].arguments[0], Origin(keys[index].place))
        rows.append(row)
    if rows:
        tls.rows("certificates").extend(rows)


def _versions(tls: Table, scope: Scope, name: str) -> None:
    directive = scope.last(name)
    if directive is None:
        return
    known = [_VERSIONS[word] for word in directive.arguments if word in _VERSIONS]
    old = [word for word in directive.arguments if word in _OLD]
    if old:
        scope.context.report.loss(
            directive.place,
            name,
            f"{' and '.join(old)}: mailproxy speaks TLS 1.2 and 1.3 only, and clients without them fail",
        )
    if known == ["1.3"]:
        tls.set("min_version", "1.3", directive)
    elif known == ["1.2"]:
        tls.set("max_version", "1.2", directive)


def _text(tls: Table, scope: Scope, name: str, key: str) -> None:
    directive = scope.last(name)
    if directive is not None:
        tls.set(key, directive.arguments[0], directive)


def _client_certificates(tls: Table, scope: Scope) -> None:
    verify = scope.last("ssl_verify_client")
    ca = scope.last("ssl_client_certificate") or scope.last("ssl_trusted_certificate")
    crl = scope.last("ssl_crl")
    if verify is None or verify.arguments[0] not in _VERIFY:
        return
    tls.set("client_verify", _VERIFY[verify.arguments[0]], verify)
    if verify.arguments[0] == "optional_no_ca":
        scope.context.report.loss(
            verify.place, verify.name, "optional_no_ca: an invalid certificate ends the handshake here"
        )
    if ca is not None:
        tls.set("client_ca", ca.arguments[0], ca)
    if crl is not None:
        tls.set("client_crl", crl.arguments[0], crl)


def _command(tls: Table, command: Directive, scope: Scope) -> None:
    words = command.arguments
    name, value = (words[0], words[1]) if len(words) > 1 else ("", "")
    if name == "Ciphersuites" and HAS_TLS13_SUITES:
        tls.set("ciphersuites", value, command)
    elif name == "Ciphersuites":
        scope.context.report.loss(
            command.place,
            command.name,
            "the cipher suites of TLS 1.3 can be chosen from Python 3.15 on: OpenSSL's are used",
        )
    elif name in ("MinProtocol", "MaxProtocol") and value in _VERSIONS:
        tls.set("min_version" if name == "MinProtocol" else "max_version", _VERSIONS[value], command)
    else:
        scope.context.report.loss(command.place, command.name, f"{name} is not here: left out")


def server_tls(scope: Scope, host: str) -> Table | None:
    """Return the TLS towards the servers of a server block; None if it has none.

    Args:
        scope: The server block.
        host: The host of proxy_pass, which nginx verifies unless proxy_ssl_name gives another name.
    """
    switch = scope.last("proxy_ssl")
    if switch is None or switch.arguments[0] != "on":
        return None
    tls = Table(place=switch.place, comments=switch.take_comments())
    name = scope.last("proxy_ssl_name")
    if scope.is_on("proxy_ssl_verify"):
        verify = scope.last("proxy_ssl_verify")
        tls.set("server_name", host if name is None else name.arguments[0], verify if name is None else name)
    else:
        tls.set("verify", "none", Origin(switch.place))
        if name is not None:
            tls.set("server_name", name.arguments[0], name)
    _text(tls, scope, "proxy_ssl_trusted_certificate", "ca")
    _text(tls, scope, "proxy_ssl_certificate", "certificate")
    _text(tls, scope, "proxy_ssl_certificate_key", "key")
    _text(tls, scope, "proxy_ssl_ciphers", "ciphers")
    _versions(tls, scope, "proxy_ssl_protocols")
    for each in ("proxy_ssl_server_name", "proxy_ssl_verify_depth"):
        scope.all(each)
    return tls
