"""The manual pages, generated from the commands and from the configuration's model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping

import click

from mailproxy.cli import main
from mailproxy.config.fields import Key, keys_of

SIGNALS = {
    "SIGTERM": "Accept no more connections, and end all sessions within process.drain_timeout, idle ones first. "
    "A second SIGTERM closes them at once.",
    "SIGINT": "Stop at once.",
    "SIGUSR2": "Reopen the log files, after their rotation.",
    "SIGHUP": "Reopen the log files, and look for renewed certificates and keys. The configuration is not read again; "
    "the log says so if it has changed.",
    "SIGUSR1": "Ignored; logs a warning, because other proxies give it different meanings.",
}
ENVIRONMENT = {
    "NOTIFY_SOCKET": "The socket on which mailproxy reports to the service manager that it is ready, or stops; see "
    "sd_notify(3).",
    "WATCHDOG_USEC, WATCHDOG_PID": "The service manager's watchdog. mailproxy reports twice in this time that its loop "
    "runs; see sd_watchdog_enabled(3).",
    "FDSTORE": "More than 0 if the service manager keeps descriptors (FileDescriptorStoreMax=). mailproxy then stores its "
    "listening sockets there, and connections wait during a restart. systemd sets it from version 254 on.",
    "LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES": "Sockets that the service manager passes on. A bind takes one with "
    'address = "fd:NAME" or "fd:3"; see sd_listen_fds(3).',
}
EXIT_STATUS = {
    "0": "No faults. Advice is possible.",
    "1": "There is advice, or import has losses, and --strict was given.",
    "2": "The configuration or the command line is faulty, or the proxy could not start.",
}


def command_page() -> str:
    """Return mailproxy.1."""
    context = click.Context(main, info_name="mailproxy", **main.context_settings)
    parts = [
        _title("MAILPROXY", 1),
        ".SH NAME\n" + _text("mailproxy - proxy and load balancer for mail"),
        ".SH SYNOPSIS\n.B mailproxy\n.I COMMAND\n[\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION\n" + _text(_plain(main.help or "")),
        ".SH COMMANDS",
        *(part for _, command in sorted(main.commands.items()) for part in _commands(command, context)),
        ".SH SIGNALS\n" + _text("Send signals of mailproxy run to the process that you started:"),
        _list(SIGNALS),
        ".SH ENVIRONMENT",
        _list(ENVIRONMENT),
        ".SH EXIT STATUS",
        _list(EXIT_STATUS),
        ".SH SEE ALSO\n.BR mailproxy.toml (5)",
    ]
    return "\n".join(parts) + "\n"


def configuration_page(head: str, tables: Mapping[str, type], cells: Mapping[str, Mapping[str, str]]) -> str:
    """Return mailproxy.toml.5.

    Args:
        head: What holds for all keys.
        tables: The tables of the configuration by title.
        cells: Type and default of each key, by table.
    """
    parts = [
        _title("MAILPROXY.TOML", 5),
        ".SH NAME\n" + _text("mailproxy.toml - configuration of mailproxy"),
        ".SH DESCRIPTION",
        *_paragraphs(head),
        ".SH TABLES AND KEYS",
    ]
    for title, table in tables.items():
        parts.append(f".SS {_escaped(title)}")
        parts += _paragraphs(inspect.cleandoc(table.__doc__ or ""))
        parts += [
            _key(key, cells[title][key.name]) for key in keys_of(table).values() if key.name in cells[title]
        ]
    parts.append(".SH SEE ALSO\n.BR mailproxy (1)")
    return "\n".join(parts) + "\n"


def _title(name: str, section: int) -> str:
    return f'.\\" Made by scripts/write-reference.\n.TH {name} {section} "" mailproxy'


def _commands(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the part of a command and, of a group, those of its commands."""
    yield _command(command, context)
    if isinstance(command, click.Group):
        own = click.Context(command, info_name=command.name, parent=context)
        for _, inner in sorted(command.commands.items()):
            yield _command(inner, own)


def _command(command: click.Command, context: click.Context) -> str:
    command_context = click.Context(command, info_name=command.name, parent=context)
    usage = " ".join(command.collect_usage_pieces(command_context))
    parts = [
        f".SS {_escaped(f'{command_context.command_path} {usage}')}",
        *_paragraphs(_plain(command.help or "")),
    ]
    for parameter in command.params:
        record = parameter.get_help_record(command_context)
        if isinstance(parameter, click.Option) and record is not None:
            parts.append(f".TP\n.B {_escaped(record[0])}\n{_text(record[1])}")
    return "\n".join(parts)


def _key(key: Key, cell: str) -> str:
    details = f"\n{_text(key.details)}" if key.details else ""
    return f".TP\n.B {_escaped(key.name)}\n{_text(_upper(key.description))}{details}\n.br\n{_text(cell)}"


def _list(items: Mapping[str, str]) -> str:
    return "\n".join(f".TP\n.B {_escaped(name)}\n{_text(text)}" for name, text in items.items())


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = paragraph.splitlines()
        if all(re.match(r"\d+\. ", line) for line in lines):
            yield "\n".join(
                f".IP {line.partition(' ')[0]} 4\n{_text(line.partition(' ')[2])}" for line in lines
            )
        else:
            yield ".PP\n" + _text(" ".join(lines))


def _plain(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text))


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _text(text: str) -> str:
    """Return a line of text. A control character at its start must not make it a roff request."""
    escaped = _escaped(text)
    return f"\\&{escaped}" if escaped.startswith((".", "'", '"')) else escaped


def _escaped(text: str) -> str:
    return (
        " ".join(text.replace("`", "").replace("*only*", "only").split())
        .replace("\\", "\\e")
        .replace("-", "\\-")
    )
