"""The table of all commands. It is the whole dispatcher: what is not in it does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Iterable, Sequence

from attrs import field, frozen

from mailproxy.admin.runtime import (
    certificates,
    drains,
    explain,
    general,
    reloads,
    sessions,
    set_frontend,
    set_server,
    tables,
)
from mailproxy.admin.runtime.call import Call, CommandError, Level, Stream
from mailproxy.admin.runtime.parser import split_words
from mailproxy.admin.runtime.show.info import show_info
from mailproxy.admin.runtime.show.servers import show_backend, show_servers_conn, show_servers_state
from mailproxy.admin.runtime.show.stat import show_stat
from mailproxy.admin.runtime.tail import follow

_USAGE_WIDTH = 40
_SIMILAR_MAX = 5

_USER, _OPERATOR, _ADMIN = Level


@frozen
class Command:
    """A command.

    Attributes:
        usage: Its words, then its arguments in brackets or angles.
        level: The level that it needs.
        function: Makes the answer, or a stream, or a coroutine that makes the answer. It gets the words behind its own.
        help: What it does.
        words: Its words.
    """

    usage: str
    level: Level
    function: Callable[..., str | Stream | Awaitable[str]]
    help: str
    words: tuple[str, ...] = field(init=False)

    @words.default
    def _words_of_usage(self) -> tuple[str, ...]:
        words = self.usage.split()
        return tuple(
            words[: next((index for index, word in enumerate(words) if word[0] in "<[{"), len(words))]
        )

    def __str__(self) -> str:
        return f"  {self.usage:<{_USAGE_WIDTH}}: {self.help}"


def _help(call: Call, *words: str) -> str:
    """Answer ``help [COMMAND]``."""
    commands = _similar(words) if words else COMMANDS
    lines = [str(each) for each in commands if each.level <= call.client.level and each not in _ALWAYS]
    return "The following commands are valid at this level:\n" + "".join(
        f"{line}\n" for line in (*lines, *map(str, _ALWAYS))
    )


# fmt: off
_ALWAYS = (
    Command("help [<command>]", _USER, _help, "list matching or all commands"),
    Command("prompt", _USER, general.prompt, "toggle interactive mode with prompt"),
    Command("quit", _USER, general.leave, "disconnect"),
)
COMMANDS: tuple[Command, ...] = (
    Command("acme status", _USER, certificates.acme_status, "report certificates by ACME, and their next attempts"),
    Command("cancel drain frontend <frontend>", _ADMIN, drains.cancel_drain_frontend, "let its sessions go on"),
    Command("cancel drain server <bk>/<srv>", _OPERATOR, drains.cancel_drain_server, "let its sessions go on"),
    Command("clear counters [all]", _OPERATOR, general.clear_counters, "clear max statistics counters (or all counters)"),
    Command("clear table <table> [key <k>]", _OPERATOR, tables.clear_table, "remove an entry from a table, or all"),
    Command("disable frontend <frontend>", _ADMIN, set_frontend.disable_frontend, "refuse connections for now"),
    Command("disable health <bk>/<srv>", _OPERATOR, set_server.disable_health, "disable health checks"),
    Command("disable server <bk>/<srv>", _OPERATOR, set_server.disable_server, "disable a server for maintenance"),
    Command("drain frontend <frontend> [within <d>]", _ADMIN, drains.drain_frontend,
            "refuse connections, end sessions, idle ones first"),
    Command("drain server <bk>/<srv> [within <d>]", _OPERATOR, drains.drain_server,
            "no new sessions, end the others, idle ones first"),
    Command("enable frontend <frontend>", _ADMIN, set_frontend.enable_frontend, "accept connections again"),
    Command("enable health <bk>/<srv>", _OPERATOR, set_server.enable_health, "enable health checks"),
    Command("enable server <bk>/<srv>", _OPERATOR, set_server.enable_server, "enable a disabled server"),
    Command("explain <client=a> <port=n> [opts]", _OPERATOR, explain.explain_client,
            "what a client would get, and why (opts: sni, alpn, bind, format=json)"),
    Command("get weight <bk>/<srv>", _USER, set_server.get_weight, "report a server's current weight"),
    Command("hand-over <version>", _ADMIN, general.hand_over, "pass the sockets to a new mailproxy (run --replace)"),
    Command("operator", _USER, general.lower_to_operator, "lower the level of this conversation to operator"),
    Command("reload", _ADMIN, reloads.reload, "use the configuration file as it is now"),
    Command("set maxconn frontend <frontend> <n>", _ADMIN, set_frontend.set_maxconn_frontend, "change a frontend's limit"),
    Command("set maxconn global <n>", _ADMIN, set_frontend.set_maxconn_global, "change the limit on all sessions"),
    Command("set maxconn server <bk>/<srv> <n>", _ADMIN, set_server.set_maxconn_server, "change a server's limit"),
    Command("set server <bk>/<srv> [opts]", _OPERATOR, set_server.set_server,
            "change state, weight, health, addr or check-port"),
    Command("set severity-output <mode>", _USER, general.set_severity_output, "mark errors: none, number or string"),
    Command("set table <table> key <k> [data.* <v>]", _OPERATOR, tables.set_table, "update or create a table entry"),
    Command("set timeout [cli] <delay>", _USER, general.set_timeout, "change the timeout of this conversation"),
    Command("set weight <bk>/<srv> <n>[%]", _OPERATOR, set_server.set_weight, "change a server's weight"),
    Command("show backend", _USER, show_backend, "list backends"),
    Command("show cli level", _USER, general.show_cli_level, "display the level of this conversation"),
    Command("show drain", _USER, drains.show_drain, "report how far drains have come"),
    Command("show env [<name>]", _OPERATOR, general.show_env, "display environment variables of the process"),
    Command("show errors [<proxy>]", _OPERATOR, general.show_errors, "report captured errors (there are none)"),
    Command("show events", _USER, general.show_events, "report the last 1000 events of the log"),
    Command("show info [json|typed]", _USER, show_info, "report figures of the process"),
    Command("show reload", _USER, reloads.show_reload, "report the last reload of the configuration"),
    Command("show servers conn [<backend>]", _USER, show_servers_conn, "display connections of servers"),
    Command("show servers state [<backend>]", _USER, show_servers_state, "display states of servers"),
    Command("show sess [<id>|all|<filter>]", _OPERATOR, sessions.show_sess,
            "list sessions (filter: server, backend, frontend, older)"),
    Command("show ssl cert [<file>|<name>]", _USER, certificates.show_ssl_cert, "list certificates, or show one"),
    Command("show stat [json|no-maint|typed|up]", _USER, show_stat, "report counters for each proxy and server"),
    Command("show table [<table> [<filter>]]", _USER, tables.show_table, "list tables, or dump one (filter: data/key)"),
    Command("show version", _USER, general.show_version, "show the version"),
    Command("shutdown frontend <frontend>", _ADMIN, set_frontend.shutdown_frontend, "refuse connections for good"),
    Command("shutdown session <id>", _OPERATOR, sessions.shutdown_session, "end a session"),
    Command("shutdown sessions server <bk>/<srv>", _OPERATOR, drains.shutdown_sessions, "end the sessions of a server"),
    Command("tail [<filter>]", _OPERATOR, follow,
            "follow ends of sessions and events (frontend=, server=, end=, format=)"),
    Command("user", _USER, general.lower_to_user, "lower the level of this conversation to user"),
    *_ALWAYS,
)
# fmt: on
"""All commands, in the order in which ``help`` lists them."""


async def execute(call: Call, text: str) -> str | Stream:
    """Carry out one command, and return its answer. Each line of it has its end. A stream has not begun yet.

    Raises:
        CommandError: There is no such command, the client may not use it, or it was refused.
    """
    words = split_words(text)
    command = _find(words)
    if command is None:
        if not words:
            raise CommandError(
                _listing("Unknown command. Please enter one of the following commands only:", COMMANDS, call)
            )
        head = "Unknown command, but maybe one of the following ones is a better match:"
        raise CommandError(_listing(head, (*_similar(words), *_ALWAYS), call))
    if command.level > call.client.level:
        raise CommandError("Permission denied")
    answer = command.function(call, *words[len(command.words) :])
    return await answer if isinstance(answer, Awaitable) else answer


def _find(words: Sequence[str]) -> Command | None:
    """Return the command that these words begin with, whose own words are the most."""
    matching = [each for each in COMMANDS if tuple(words[: len(each.words)]) == each.words]
    return max(matching, key=lambda each: len(each.words), default=None)


def _similar(words: Sequence[str]) -> list[Command]:
    """Return the commands that begin with the first words, else those that look most like them."""
    for length in range(len(words), 0, -1):
        matching = [
            each for each in COMMANDS if each.words[:length] == tuple(words[:length]) and each not in _ALWAYS
        ]
        if matching:
            return matching
    by_words = {" ".join(each.words): each for each in COMMANDS if each not in _ALWAYS}
    close = difflib.get_close_matches(" ".join(words[:3]), by_words, _SIMILAR_MAX, cutoff=0.3)
    return [by_words[each] for each in close]


def _listing(head: str, commands: Iterable[Command], call: Call) -> str:
    usable = [str(each) for each in commands if each.level <= call.client.level]
    return "\n".join([head, *usable])
