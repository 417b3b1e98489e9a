"""The manual pages, made from the commands and from the configuration's model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping

import click

from mailproxy.cli import main
from mailproxy.config.fields import Key, keys_of

SIGNALS = {
    "SIGTERM": "Accept no more connections, give sessions process.drain_timeout to end, then close the rest. "
    "A second SIGTERM closes them at once.",
    "SIGINT": "Stop at once.",
    "SIGUSR2": "Reopen the log file.",
    "SIGHUP": "Reopen the log file, and look for renewed certificates and keys.",
}
ENVIRONMENT = {
    "NOTIFY_SOCKET": "mailproxy tells the service manager here that it is ready, or stops; see sd_notify(3).",
    "LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES": "Sockets that the service manager passes on. A bind takes one with "
    'address = "fd:NAME" or "fd:3"; see sd_listen_fds(3).',
}
EXIT_STATUS = {
    "0": "Success. Advice is success, too.",
    "1": "There is advice, and --strict was given.",
    "2": "The configuration or the command line is faulty; or the proxy could not start for that reason.",
}


def command_page() -> str:
    """Return mailproxy.1."""
    context = click.Context(main, info_name="mailproxy")
    parts = [
        _title("MAILPROXY", 1),
        ".SH NAME\n" + _text("mailproxy - proxy and load balancer for mail"),
        ".SH SYNOPSIS\n.B mailproxy\n.I COMMAND\n[\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION\n" + _text(_plain(main.help or "")),
        ".SH COMMANDS",
        *(_command(command, context) for _, command in sorted(main.commands.items())),
        ".SH SIGNALS\n" + _text("Of mailproxy run, sent to the process that was started:"),
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
        tables: The model's classes by the headings of their tables.
        cells: Type and default of each key, by heading and name.
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


def _command(command: click.Command, context: click.Context) -> str:
    own = click.Context(command, info_name=command.name, parent=context)
    usage = " ".join(command.collect_usage_pieces(own))
    parts = [f".SS {_escaped(f'mailproxy {command.name} {usage}')}", *_paragraphs(_plain(command.help or ""))]
    for parameter in command.params:
        record = parameter.get_help_record(own)
        if isinstance(parameter, click.Option) and record is not None:
            parts.append(f".TP\n.B {_escaped(record[0])}\n{_text(record[1])}")
    return "\n".join(parts)


def _key(key: Key, cell: str) -> str:
    details = f"\n{_text(key.details)}" if key.details else ""
    return f".TP\n.B {_escaped(key.name)}\n{_text(_upper(key.description))}{details}\n.br\n{_text(cell)}"


def _list(items: Mapping[str, str]) -> str:
    return "\n".join(f".TP\n.B {_escaped(name)}\n{_text(words)}" for name, words in items.items())


def _paragraphs(words: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", words.strip()):
        lines = paragraph.splitlines()
        if all(re.match(r"\d+\. ", line) for line in lines):
            yield "\n".join(
                f".IP {line.partition(' ')[0]} 4\n{_text(line.partition(' ')[2])}" for line in lines
            )
        else:
            yield ".PP\n" + _text(" ".join(lines))


def _plain(words: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", words))


def _upper(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")


def _text(words: str) -> str:
    """Return a line of text, protected from being read as a request if it begins with a control character."""
    escaped = _escaped(words)
    return f"\\&{escaped}" if escaped.startswith((".", "'", '"')) else escaped


def _escaped(words: str) -> str:
    return (
        " ".join(words.replace("`", "").replace("*only*", "only").split())
        .replace("\\", "\\e")
        .replace("-", "\\-")
    )
