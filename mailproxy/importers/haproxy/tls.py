"""TLS towards clients and servers: parameters that bind and server lines share, and their defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mailproxy.importers.context import Context
from mailproxy.importers.directive import Directive, Group, loss, note
from mailproxy.importers.draft import Table
from mailproxy.importers.haproxy.reader import path_of
from mailproxy.importers.haproxy.settings import Settings
from mailproxy.importers.models import HAS_TLS13_SUITES
from mailproxy.importers.place import Origin, Word

Handler = Callable[[Table, Context, Word, Sequence[Word], Settings], None]

_VERSIONS = {"TLSv1.2": "1.2", "TLSv1.3": "1.3"}
_OLD_VERSIONS = ("SSLv3", "TLSv1.0", "TLSv1.1")


def _set(key: str) -> Handler:
    def handle(
        tls: Table, _context: Context, word: Word, arguments: Sequence[Word], _settings: Settings
    ) -> None:
        tls.set(key, arguments[0].text, Origin(word.place))

    return handle


def _path(key: str) -> Handler:
    def handle(
        tls: Table, _context: Context, word: Word, arguments: Sequence[Word], settings: Settings
    ) -> None:
        tls.set(key, path_of(arguments[0].text, settings.ca_base), Origin(word.place))

    return handle


def _client_ca(
    tls: Table, context: Context, word: Word, arguments: Sequence[Word], settings: Settings
) -> None:
    if arguments[0].text == "@system-ca":
        context.report.loss(
            word.place,
            word.text,
            "the system's CAs for client certificates are not here: name a file in client_ca",
        )
        return
    tls.set("client_ca", path_of(arguments[0].text, settings.ca_base), Origin(word.place))


def _verify(
    tls: Table, _context: Context, word: Word, arguments: Sequence[Word], _settings: Settings
) -> None:
    tls.set("client_verify", arguments[0].text, Origin(word.place))


def _alpn(tls: Table, _context: Context, word: Word, arguments: Sequence[Word], _settings: Settings) -> None:
    tls.set("alpn", [name for name in arguments[0].text.split(",") if name], Origin(word.place))


def _strict_sni(tls: Table, _context: Context, word: Word, _: Sequence[Word], _settings: Settings) -> None:
    tls.set("strict_sni", True, Origin(word.place))


def _ktls(tls: Table, _context: Context, word: Word, arguments: Sequence[Word], _settings: Settings) -> None:
    tls.set("ktls", arguments[0].text == "on", Origin(word.place))


def _no_tickets(tls: Table, _context: Context, word: Word, _: Sequence[Word], _settings: Settings) -> None:
    tls.set("tickets", False, Origin(word.place))


def _version(key: str) -> Handler:
    def handle(
        tls: Table, context: Context, word: Word, arguments: Sequence[Word], _settings: Settings
    ) -> None:
        version = arguments[0].text
        if version in _VERSIONS:
            tls.set(key, _VERSIONS[version], Origin(word.place))
        elif version in _OLD_VERSIONS:
            context.report.loss(
                word.place,
                word.text,
                f"{version}: mailproxy speaks TLS 1.2 and 1.3 only, and clients without them fail",
            )
        else:
            context.report.loss(word.place, word.text, f"{version} is no version of TLS: left out")

    return handle


def _suites(tls: Table, context: Context, word: Word, arguments: Sequence[Word], _settings: Settings) -> None:
    set_suites(tls, context, word, arguments[0].text)


def set_suites(tls: Table, context: Context, word: Word, suites: str) -> None:
    """Set the cipher suites of TLS 1.3, if this Python can."""
    if HAS_TLS13_SUITES:
        tls.set("ciphersuites", suites, Origin(word.place))
    else:
        context.report.loss(
            word.place,
            word.text,
            "the cipher suites of TLS 1.3 can be chosen from Python 3.15 on: OpenSSL's are used",
        )


def _curves(tls: Table, context: Context, word: Word, arguments: Sequence[Word], _settings: Settings) -> None:
    set_curves(tls, context, word, arguments[0].text)


def set_curves(tls: Table, context: Context, word: Word, curves: str) -> None:
    """Set the groups of the key exchange; several of them only if this Python can."""
    if HAS_TLS13_SUITES or ":" not in curves:
        tls.set("curves", curves, Origin(word.place))
    else:
        context.report.loss(
            word.place, word.text, "several groups can be chosen from Python 3.15 on: OpenSSL's are used"
        )


def _force(version: str) -> Handler:
    def handle(tls: Table, _context: Context, word: Word, _: Sequence[Word], _settings: Settings) -> None:
        tls.set("min_version", version, Origin(word.place))
        tls.set("max_version", version, Origin(word.place))

    return handle


def _without(version: str) -> Handler:
    def handle(tls: Table, _context: Context, word: Word, _: Sequence[Word], _settings: Settings) -> None:
        key, value = {"1.2": ("min_version", "1.3"), "1.3": ("max_version", "1.2")}[version]
        tls.set(key, value, Origin(word.place))

    return handle


def _nothing(_tls: Table, _context: Context, _word: Word, _: Sequence[Word], _settings: Settings) -> None:
    """Do nothing, since the meaning is mailproxy's own."""


# Parameters with the same meaning towards clients and servers.
_SHARED: tuple[Directive[Handler], ...] = (
    Directive(
        ("ssl-min-ver",),
        "`min_version`; 1.2 by default, and nothing below it",
        _version("min_version"),
        arguments=1,
    ),
    Directive(("ssl-max-ver",), "`max_version`", _version("max_version"), arguments=1),
    Directive(("ciphers",), "`ciphers`", _set("ciphers"), arguments=1),
    Directive(("ciphersuites",), "`ciphersuites`, which needs Python 3.15", _suites, arguments=1),
    Directive(("no-sslv3", "no-tlsv10", "no-tlsv11"), "not needed: always so", _nothing),
    Directive(("no-tlsv12",), '`min_version = "1.3"`', _without("1.2")),
    Directive(("no-tlsv13",), '`max_version = "1.2"`', _without("1.3")),
    Directive(("force-tlsv12",), "`min_version` and `max_version`", _force("1.2")),
    Directive(("force-tlsv13",), "`min_version` and `max_version`", _force("1.3")),
    Directive(("no-tls-tickets",), "`tickets = false`", _no_tickets),
    loss("force-sslv3", "force-tlsv10", "force-tlsv11", meaning="not here: TLS 1.2 and 1.3 only"),
)
CLIENT_TLS = Group[Handler]("TLS towards clients", (
    *_SHARED,
    Directive(("ca-file",), "`client_ca`", _client_ca, arguments=1),
    Directive(("verify",), "`client_verify`", _verify, shown="`verify required`, `optional`, `none`", arguments=1),
    Directive(("crl-file",), "`client_crl`", _path("client_crl"), arguments=1),
    Directive(("alpn",), "`alpn`", _alpn, arguments=1),
    Directive(("strict-sni",), "`strict_sni`", _strict_sni),
    Directive(("ktls",), "`ktls`", _ktls, arguments=1),
    Directive(("curves", "ecdhe"), "`curves`", _curves, arguments=1),
    note("prefer-client-ciphers", "no-alpn", "allow-0rtt", "generate-certificates", "crt-ignore-err-all", meaning="not here"),
    note("npn", "ca-verify-file", "tls-ticket-keys", "ca-sign-file", "ca-sign-pass", "sigalgs", "client-sigalgs",
         meaning="not here", arguments=1),
    note("ocsp-update", meaning="not here: no OCSP stapling", arguments=1),
    loss("crt-ignore-err", "ca-ignore-err", meaning="not here: an invalid client certificate ends the handshake", arguments=1),
))  # fmt: skip
SHARED_TLS = _SHARED
_OPTIONS = {name: directive for directive in CLIENT_TLS.directives for name in directive.names}


def apply_options(tls: Table, context: Context, words: Sequence[Word], settings: Settings) -> None:
    """Apply the words of ``ssl-default-bind-options`` or ``ssl-default-server-options``, where nothing is set yet."""
    position = 0
    while position < len(words):
        word = words[position]
        directive = _OPTIONS.get(word.text)
        count = 0 if directive is None else directive.arguments
        arguments = words[position + 1 : position + 1 + count]
        position += 1 + len(arguments)
        if directive is None or len(arguments) < count:
            context.report.loss(word.place, word.text, "is no option of TLS, which HAProxy refuses: left out")
        elif directive.handle is None:
            report = context.report.note if directive.kind == "note" else context.report.loss
            report(word.place, word.text, directive.fact)
        else:
            own = dict(tls.keys)
            directive.handle(tls, context, word, arguments, settings)
            tls.keys.update(own)
            context.settle(word.place)
