"""The bind lines of a frontend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import define, field

from mailproxy.errors import ConfigError
from mailproxy.importers.context import Context
from mailproxy.importers.directive import Directive, Group, index, loss, note
from mailproxy.importers.draft import Table, Value, new_table
from mailproxy.importers.files import read_text
from mailproxy.importers.haproxy.addresses import Address, AddressError, bind_addresses
from mailproxy.importers.haproxy.certificates import use_stored, use_words
from mailproxy.importers.haproxy.lexer import Line, split_line
from mailproxy.importers.haproxy.reader import path_of
from mailproxy.importers.haproxy.settings import Settings
from mailproxy.importers.haproxy.tls import CLIENT_TLS, apply_options
from mailproxy.importers.haproxy.values import duration, number
from mailproxy.importers.names import settled_name
from mailproxy.importers.place import Origin, Place, Word

EVERYBODY = ["0.0.0.0/0", "::/0"]


@define
class BindLine:
    """One bind line in translation.

    Attributes:
        row: What its binds have in common.
        tls: Its TLS.
        terminates_tls: Whether it has ``ssl``.
        addresses: Its addresses.
    """

    context: Context
    settings: Settings
    row: Table
    tls: Table = field(factory=Table)
    terminates_tls: bool = False
    v6only: bool = False
    addresses: list[Address] = field(factory=list)

    def loss(self, word: Word, fact: str) -> None:
        """Report a parameter that is not translated."""
        self.context.report.loss(word.place, f"bind {word.text}", fact)

    def rows(self) -> list[Table]:
        """Return a table for each address."""
        rows = []
        for number_, address in enumerate(self.addresses):
            row = self.row.copy() if number_ else self.row
            row.keys = {
                "address": Value(address.text, row.place),
                **{key: value for key, value in row.keys.items() if key != "address"},
            }
            if self.terminates_tls:
                row.keys["mode"] = Value("tls", row.place)
            if self.v6only and address.text.startswith("["):
                row.keys["v6only"] = Value(True, row.place)
            rows.append(row)
        return rows


Handler = Callable[[BindLine, Word, Sequence[Word]], None]


def read_bind(line: Line, context: Context, settings: Settings) -> BindLine:
    """Translate a bind line."""
    bind = BindLine(context, settings, new_table(line))
    if len(line.words) < 2:
        context.report.loss(line.place, "bind", "has no address, which HAProxy refuses: left out")
        return bind
    try:
        bind.addresses = bind_addresses(line.words[1].text)
    except AddressError as error:
        context.report.loss(line.words[1].place, f"bind {line.words[1].text}", f"{error}: left out")
        return bind
    read_parameters(line.words[2:], BIND_PARAMETERS, bind, context, "bind")
    return bind


def read_parameters(
    words: Sequence[Word],
    known: Mapping[str, Directive[Callable[..., None]]],
    target: object,
    context: Context,
    kind: str,
) -> None:
    """Translate the parameters of a bind or server line.

    Args:
        words: The words behind the address.
        known: The parameters by name.
        target: What the parameters' functions fill.
        context: Gets what is to report.
        kind: ``bind`` or ``server``, for messages.
    """
    position = 0
    while position < len(words):
        word = words[position]
        context.register(word.place, f"{kind} {word.text}")
        directive = known.get(word.text)
        if directive is None and (directive := known.get(word.text.replace("_", "-"))) is not None:
            fixed = word.text.replace("_", "-")
            context.report.note(
                word.place, f"{kind} {word.text}", f"HAProxy refuses this spelling: read as {fixed}"
            )
            word = Word(fixed, word.place)
        if directive is None:
            context.report.loss(
                word.place,
                f"{kind} {word.text}",
                f"is no parameter of {kind} lines, and HAProxy refuses it: left out",
            )
            position += 1
            continue
        arguments = words[position + 1 : position + 1 + directive.arguments]
        position += 1 + len(arguments)
        if len(arguments) < directive.arguments:
            context.report.loss(
                word.place, f"{kind} {word.text}", "has no value, which HAProxy refuses or ignores: left out"
            )
        elif directive.handle is None:
            report = context.report.note if directive.kind == "note" else context.report.loss
            report(word.place, f"{kind} {word.text}", directive.fact)
        else:
            directive.handle(target, word, arguments)
            context.settle(word.place)


# Each function takes the bind, the parameter and its arguments.


def _set(key: str, value: bool | None = None) -> Handler:
    def handle(bind: BindLine, word: Word, arguments: Sequence[Word]) -> None:
        bind.row.set(key, arguments[0].text if value is None else value, Origin(word.place))

    return handle


def _set_duration(key: str) -> Handler:
    def handle(bind: BindLine, word: Word, arguments: Sequence[Word]) -> None:
        if (value := duration(arguments[0].text)) is None:
            bind.loss(word, f"{arguments[0].text} is no time that mailproxy can have: left out")
        else:
            bind.row.set(key, value, Origin(word.place))

    return handle


def _set_number(key: str) -> Handler:
    def handle(bind: BindLine, word: Word, arguments: Sequence[Word]) -> None:
        if (value := number(arguments[0].text)) is None:
            bind.loss(word, f"{arguments[0].text} is no number: left out")
        else:
            bind.row.set(key, value, Origin(word.place))

    return handle


def _account(key: str, mark: str = "") -> Handler:
    def handle(bind: BindLine, word: Word, arguments: Sequence[Word]) -> None:
        bind.row.set(key, f"{mark}{arguments[0].text}", Origin(word.place))

    return handle


def _mode(bind: BindLine, word: Word, arguments: Sequence[Word]) -> None:
    bind.row.set("unix_mode", arguments[0].text.rjust(4, "0"), Origin(word.place))


def _name(bind: BindLine, word: Word, arguments: Sequence[Word]) -> None:
    bind.row.set("name", settled_name(arguments[0].text), Origin(word.place))


def _ssl(bind: BindLine, word: Word, _: Sequence[Word]) -> None:
    bind.terminates_tls = True
    bind.tls.place = bind.tls.place or word.place


def _v6only(bind: BindLine, _word: Word, _: Sequence[Word]) -> None:
    bind.v6only = True


def _nothing(_bind: BindLine, _word: Word, _: Sequence[Word]) -> None:
    """Do nothing, since the meaning is mailproxy's own."""


def _accept_proxy(bind: BindLine, word: Word, _: Sequence[Word]) -> None:
    is_unix = any(address.text.startswith("unix:") for address in bind.addresses)
    bind.row.set("accept_proxy", ["unix"] if is_unix else list(EVERYBODY), Origin(word.place))
    if not is_unix:
        bind.context.report.advise(
            word.place,
            "bind accept-proxy",
            "takes a header from every address, so any client can claim any address: name the networks of your proxies in accept_proxy",
        )


def _certificate(bind: BindLine, word: Word, arguments: Sequence[Word]) -> None:
    stored = bind.settings.stored.get(arguments[0].text)
    if stored is not None:
        use_stored(bind.tls, stored, bind.settings, bind.context, word)
        return
    path = path_of(arguments[0].text, bind.settings.crt_base)
    if path.startswith("@"):
        bind.loss(word, "names a crt-store that is not in these files: give the file in tls.certificates")
        return
    row = Table(place=word.place)
    row.set("certificate", path, Origin(word.place))
    bind.tls.rows("certificates").append(row)


def _certificate_list(bind: BindLine, word: Word, arguments: Sequence[Word]) -> None:
    path = arguments[0].text
    for file in (Path(path), Path(word.place.file).parent / path):
        try:
            text = read_text(file)
        except ConfigError:
            continue
        _read_certificate_list(bind, word, text, str(file))
        return
    bind.loss(word, f"{path} cannot be read here: give its certificates in tls.certificates")


def _read_certificate_list(bind: BindLine, word: Word, text: str, file: str) -> None:
    known = {row.get("certificate") for row in bind.tls.rows("certificates")}
    for number_, raw in enumerate(text.splitlines(), 1):
        words, _ = split_line(raw, file, number_, {})
        if not words:
            continue
        options = _options_of_certificate(words)
        if any(each.text == "acme" for each in options):
            use_words(
                bind.tls, [Word("crt", word.place), words[0], *options], bind.settings, bind.context, word
            )
            continue
        path = path_of(words[0].text, bind.settings.crt_base)
        row = Table(place=word.place)
        row.set("certificate", path, Origin(word.place))
        if path not in known:
            known.add(path)
            bind.tls.rows("certificates").append(row)
        if options:
            bind.context.report.loss(
                Place(file, number_, 1), "crt-list", "options of single certificates are not here: left out"
            )
        elif len(words) > 1:
            bind.context.report.note(
                Place(file, number_, 1),
                "crt-list",
                "the client's name selects the certificate by the names in it, not by this list",
            )


def _options_of_certificate(words: Sequence[Word]) -> list[Word]:
    """Return the words in brackets of a line of a crt-list: ``mail.pem [alpn imap] imap.example.com``."""
    options: list[Word] = []
    is_inside = False
    for word in words[1:]:
        is_inside = is_inside or word.text.startswith("[")
        if is_inside and (text := word.text.strip("[]")):
            options.append(Word(text, word.place, word.is_quoted))
        is_inside = is_inside and not word.text.endswith("]")
    return options


def _tls(handle: Callable[[Table, Context, Word, Sequence[Word], Settings], None]) -> Handler:
    def handle_bind(bind: BindLine, word: Word, arguments: Sequence[Word]) -> None:
        handle(bind.tls, bind.context, word, arguments, bind.settings)

    return handle_bind


def add_default_tls(bind: BindLine) -> None:
    """Add what ``ssl-default-bind-…`` sets, where the bind line says nothing."""
    if not bind.terminates_tls:
        return
    for key, (value, line) in bind.settings.bind_tls.items():
        bind.tls.set_default(key, value, Origin(line.place))
    apply_options(bind.tls, bind.context, bind.settings.bind_options, bind.settings)


_NOT_HERE = "not here"
BINDS = Group[Handler]("Parameters of `bind`", (
    Directive(("name",), "`name`; several binds may share one", _name, arguments=1),
    Directive(("interface",), "`interface`", _set("interface"), arguments=1),
    Directive(("v4v6",), "an address `[::]:993` takes both families", _nothing),
    Directive(("v6only",), "`v6only`", _v6only),
    Directive(("tcp-ut",), "`tcp_user_timeout`", _set_duration("tcp_user_timeout"), arguments=1),
    Directive(("tfo",), "`fast_open`", _set("fast_open", True)),
    Directive(("backlog",), "`backlog`", _set_number("backlog"), arguments=1),
    Directive(("accept-proxy",), "`accept_proxy` with the networks that must send a header", _accept_proxy),
    Directive(("mode",), "`unix_mode`", _mode, arguments=1),
    Directive(("user",), "`unix_user`", _account("unix_user"), arguments=1),
    Directive(("group",), "`unix_group`", _account("unix_group"), arguments=1),
    Directive(("uid",), '`unix_user`, as `"#80"`', _account("unix_user", "#"), arguments=1),
    Directive(("gid",), '`unix_group`, as `"#80"`', _account("unix_group", "#"), arguments=1),
    Directive(("ssl",), '`mode = "tls"`. `mode = "passthrough"` passes TLS, `"forward"` passes all bytes', _ssl),
    Directive(("crt",), "`certificates`, files and folders; reloaded when they change", _certificate, shown="`crt FILE`, `crt DIRECTORY`, `FILE.key`", arguments=1),
    Directive(("crt-list",), "`certificates` for the files; options for single names are not here", _certificate_list, arguments=1),
    Directive((), "not needed: certificates of both kinds for one name are served side by side", shown="`FILE.rsa`, `FILE.ecdsa`"),
    Directive((), "not here: no OCSP stapling; put the chain into the file", shown="`FILE.ocsp`, `FILE.sctl`, `FILE.issuer`"),
    *(Directive(each.names, each.meaning, None if each.handle is None else _tls(each.handle), kind=each.kind, shown=each.shown, arguments=each.arguments)
      for each in CLIENT_TLS.directives),
    loss("transparent", meaning="not here; `free_bind` binds an address that is not there yet"),
    loss("defer-accept", meaning="not here: mail servers speak first, so the client would wait"),
    loss("maxconn", meaning="not here for one bind: `max_sessions` of the frontend", arguments=1),
    loss("accept-netscaler-cip", meaning=_NOT_HERE, arguments=1),
    loss("mss", "tos", "namespace", "tcp-ss", meaning=_NOT_HERE, arguments=1),
    note("nice", "process", "thread", "shards", "id", "level", "severity-output", "expose-fd", meaning="not needed", arguments=1),
    note("no-quic-cc", "quic-force-retry", "proto", "quic-cc-algo", meaning="not needed: HTTP only", arguments=0),
))  # fmt: skip
BIND_PARAMETERS = index(BINDS)
