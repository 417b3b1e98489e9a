"""nginx's files as a draft: the process, the stream module, the mail module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table
from mailproxy.importers.nginx.backends import Backends
from mailproxy.importers.nginx.directives import MAIL_DIRECTIVES, MAIN_DIRECTIVES, STREAM_DIRECTIVES
from mailproxy.importers.nginx.mail import translate_mail
from mailproxy.importers.nginx.maps import maps_of
from mailproxy.importers.nginx.reader import Directive, Reader
from mailproxy.importers.nginx.scope import Scope, account
from mailproxy.importers.nginx.stream import Streams
from mailproxy.importers.place import Origin, Place
from mailproxy.importers.times import duration, number

_OF_STREAM = ("server", "upstream", "map", "geo", "limit_conn_zone")


def convert(texts: Iterable[tuple[str, str]], context: Context) -> None:
    """Fill the draft of an import from the texts of nginx's files.

    Args:
        texts: Name and text of each file, in order.
        context: The import.

    Raises:
        ConfigError: A file cannot be read.
    """
    texts = list(texts)
    reader = Reader(context, Path(texts[0][0]).parent)
    top = [directive for name, text in texts for directive in reader.read(text, name)]
    main = _main(top)
    account(main, MAIN_DIRECTIVES, context, "the main part")
    if main.comments.above:
        context.draft.comments = main.take_comments()
    _process(main, context)
    streams, mails = main.children("stream"), main.children("mail")
    for block in (*streams, *mails):
        context.settle(block.place)
    _streams(streams, main, context)
    for mail in mails:
        account(mail, MAIL_DIRECTIVES, context, "the mail module")
        _access_logs([mail], context)
        for server in mail.children("server"):
            account(server, MAIL_DIRECTIVES, context, "the mail module")
            context.settle(server.place)
            translate_mail(server, [mail, main], context)
        _report_unused_tls([mail], context)


def _main(top: Sequence[Directive]) -> Directive:
    """Return all directives as one block. Parts of a stream block at the top, as in files to include, are put into one."""
    parts = [each for each in top if each.name in _OF_STREAM]
    place = top[0].place if top else Place("", 1, 1)
    rest = [each for each in top if each.name not in _OF_STREAM]
    if parts:
        rest.append(Directive("stream", [], parts[0].place, parts[0].last_line, parts))
    return Directive("", [], place, place.line, rest)


def _process(main: Directive, context: Context) -> None:
    scope, process = Scope(context, [main]), context.draft.table("process")
    if (user := scope.last("user")) is not None:
        process.set("user", user.arguments[0], user)
        if len(user.arguments) > 1:
            process.set("group", user.arguments[1], Origin(user.place))
    if (workers := scope.last("worker_processes")) is not None:
        count = number(workers.arguments[0])
        process.set("workers", "auto" if count is None else count, workers)
    if (timeout := scope.last("worker_shutdown_timeout")) is not None and (
        value := duration(timeout.arguments[0])
    ) is not None:
        process.set("drain_timeout", value, timeout)
    if (pid := scope.last("pid")) is not None:
        _pid_file(pid, process, main, context)
    scope.all("access_log")


def _pid_file(pid: Directive, process: Table, main: Directive, context: Context) -> None:
    if main.children("http"):
        fact = "nginx needs it for HTTP: give mailproxy a pid_file of its own, if a program reads it"
        context.report.note(pid.place, "pid", fact)
    else:
        process.set("pid_file", pid.arguments[0], pid)


def _streams(streams: Sequence[Directive], main: Directive, context: Context) -> None:
    inside = [each for stream in streams for each in stream.block or ()]
    upstreams = {each.arguments[0]: each for each in inside if each.name == "upstream" and each.arguments}
    maps = maps_of(inside)
    zones = {}
    for stream in streams:
        account(stream, STREAM_DIRECTIVES, context, "the stream module")
        for zone in stream.children("limit_conn_zone"):
            context.settle(zone.place)
            if len(zone.arguments) > 1:
                zones[zone.arguments[1].removeprefix("zone=").partition(":")[0]] = zone.arguments[0]
    for upstream in upstreams.values():
        _account_upstream(upstream, context)
    backends = Backends(context, upstreams)
    translator = Streams(context, backends, maps, zones)
    for stream in streams:
        for server in stream.children("server"):
            account(server, STREAM_DIRECTIVES, context, "the stream module")
            context.settle(server.place)
            translator.translate(server, [stream, main])
    backends.report_unused()
    _report_unused_tls(streams, context)
    _report_unused_maps(maps.values(), context)
    _access_logs(streams, context)


def _account_upstream(upstream: Directive, context: Context) -> None:
    for each in upstream.block or ():
        context.register(each.place, each.name)
        if each.name in ("zone", "state", "sticky", "ntlm", "resolver_timeout"):
            context.report.note(each.place, each.name, "not needed: all workers share states and counts")
        elif each.name not in ("server", "least_conn", "hash", "random", "ip_hash", "least_time", "resolver"):
            context.report.loss(
                each.place, each.name, "is no directive of an upstream that is known here: left out"
            )


def _report_unused_tls(blocks: Sequence[Directive], context: Context) -> None:
    """Report directives of TLS around server blocks of which none has TLS."""
    for block in blocks:
        for each in block.block or ():
            if (
                each.name.startswith(("ssl_", "proxy_ssl"))
                and each.place not in context.done
                and each.name != "ssl_preread"
            ):
                context.report.note(each.place, each.name, "no server block uses it: left out")


def _report_unused_maps(maps: Iterable[Directive], context: Context) -> None:
    for block in maps:
        if block.place in context.done:
            continue
        context.report.note(block.place, block.name, "no proxy_pass is decided by it: left out")
        for each in block.block or ():
            context.settle(each.place)


def _access_logs(blocks: Sequence[Directive], context: Context) -> None:
    """Write the log targets of the stream and mail modules."""
    rows: dict[str, Table] = {}
    logs = [
        log
        for block in blocks
        for log in (
            *block.children("access_log"),
            *(each for server in block.children("server") for each in server.children("access_log")),
        )
    ]
    for log in logs:
        context.settle(log.place)
        target = log.arguments[0] if log.arguments else "off"
        if target == "off":
            continue
        if target.startswith("syslog:"):
            to, facility, tag = _syslog(target)
        else:
            to, facility, tag = target, "", ""
        if "$" in to:
            context.report.loss(log.place, "access_log", f"{to}: a file by variables is not here: left out")
            continue
        if to in rows:
            continue
        row = Table(place=log.place, comments=log.take_comments())
        row.set("to", to, Origin(log.place))
        if to.startswith("syslog:") and facility:
            row.set("facility", facility, Origin(log.place))
        if to.startswith("syslog:") and tag:
            row.set("tag", tag, Origin(log.place))
        rows[to] = row
    log_table = context.draft.table("log")
    targets = list(rows.values())
    if len(targets) == 1 and not log_table.keys:
        log_table.keys, log_table.place, log_table.comments = (
            targets[0].keys,
            targets[0].place,
            targets[0].comments,
        )
    elif targets:
        log_table.rows("targets").extend(targets)


def _syslog(target: str) -> tuple[str, str, str]:
    given = dict(part.partition("=")[::2] for part in target.removeprefix("syslog:").split(","))
    server = given.get("server", "")
    if server.startswith("unix:"):
        return f"syslog:{server.removeprefix('unix:')}", given.get("facility", ""), given.get("tag", "")
    has_port = server.rpartition(":")[2].isdecimal() and (server.count(":") == 1 or "]:" in server)
    return (
        f"syslog:{server if has_port else f'{server}:514'}",
        given.get("facility", ""),
        given.get("tag", ""),
    )
