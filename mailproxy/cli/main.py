"""The commands. Exit codes: 0 for success, 1 for advice or losses with ``--strict``, 2 for a faulty configuration or command line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from mailproxy import __version__
from mailproxy.cli.certs import certs
from mailproxy.cli.report import Writer, write_json, write_text
from mailproxy.config import Config, json_schema, load, load_admin, load_stream
from mailproxy.errors import ConfigError, Fault

if TYPE_CHECKING:
    from mailproxy.cli.ctl import AdminAddress

FAULTY = 2
ADVISED = 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="mailproxy %(version)s")
def main() -> None:
    """Proxy and balance sessions of IMAP, POP3, SMTP submission, MX and ManageSieve.

    Documentation: man mailproxy, man mailproxy.toml; examples in share/mailproxy/config of the installation.
    """


@main.command()
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.option(
    "--replace", is_flag=True,
    help="Take the listening sockets over from the running instance, which then drains and ends.",
)  # fmt: skip
def run(file: Path, replace: bool) -> None:
    """Run the proxy in the foreground.

    FILE is its configuration (man mailproxy.toml). SIGTERM drains and stops. A second SIGTERM, or SIGINT,
    stops now. SIGHUP and SIGUSR2 reopen log files. SIGHUP also reloads FILE, and certificate files that have
    changed.

    With --replace, the running instance is found by the admin socket in FILE. It goes on until this one accepts,
    and also if this one does not start. If no instance runs, the start is a normal one.
    """
    config = _load(file)
    from mailproxy.app import run as run_proxy  # late, so that other commands need not import trio

    try:
        run_proxy(config, replaces=replace)
    except ConfigError as error:
        _refuse(error)


@main.command()
@click.argument("file", type=click.Path(path_type=Path, readable=False, allow_dash=True))
@click.option("--strict", is_flag=True, help="Exit with 1 if there is advice.")
@click.option("--live", is_flag=True, help="Resolve and check every server once, and print a table.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="With json, print one list of faults and advice on standard output, for programs.",
)  # fmt: skip
@click.option("--quiet", "-q", is_flag=True, help="Print faults and advice only, no table and no summary.")
def check(file: Path, strict: bool, live: bool, form: str, quiet: bool) -> None:
    """List the faults of a configuration, and advice.

    FILE may be - for standard input. Files, certificates, users and ciphers are checked, too. Advice is about
    settings that are allowed, but probably a mistake. A line about the Python that runs this follows if its
    build makes sessions cost more; --strict does not count it. The check does not listen, and connects to
    servers only with --live.

    Faults go to standard error, everything else to standard output. Exit codes: 0 no faults, 1 advice with
    --strict, 2 faults.
    """
    write: Writer = write_json if form == "json" else write_text
    try:
        config = _load_any(file)
        from mailproxy.app import (
            advise,
            advise_on_python,
            check_all_servers,
            check_tlsa,
            load_and_check,
            table,
            worker_count,
        )

        store = load_and_check(config)
        if store.expired:
            raise config.error(store.expired)
    except ConfigError as error:
        write("fault", error.faults, error.source)
        sys.exit(FAULTY)
    advice = advise(config, store)
    is_plain = form == "text" and not quiet
    if live:
        results = check_all_servers(config, store)
        if is_plain:
            click.echo(table(results))
        advice += [result.fault for result in results if result.fault is not None]
        advice += check_tlsa(config, store)
    write("advice", config.source_map.locate_all(advice), config.source)
    if is_plain:
        click.echo(f"{file}: {_summary(config, worker_count(config), len(advice))}")
        if fact := advise_on_python():  # no matter of the configuration, so neither counted nor for --strict
            click.echo(f"advice: {fact}")
    sys.exit(ADVISED if advice and strict else 0)


@main.command()
@click.argument("file", type=click.Path(path_type=Path, readable=False, allow_dash=True))
@click.option(
    "--client",
    required=True,
    metavar="ADDR",
    help="The client's IP address; behind a PROXY header, the one in it.",
)
@click.option(
    "--port", required=True, type=click.IntRange(1, 65535), metavar="N", help="The port that it connects to."
)
@click.option(
    "--bind", default="", metavar="NAME", help="The bind, where several have the port, or where it has none."
)
@click.option("--sni", metavar="NAME", help="The server name that it asks for in TLS.")
@click.option(
    "--alpn", multiple=True, metavar="P", help="An application protocol that it offers; may be repeated."
)
@click.option(
    "--at",
    "states",
    default="",
    metavar="SERVER=STATE,…",
    help="States of servers: up, down, ready, drain or maint. SERVER may be BACKEND/SERVER.",
)
@click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="With json, print one object on standard output, for programs.",
)  # fmt: skip
def explain(
    file: Path,
    *,
    client: str,
    port: int,
    bind: str,
    sni: str | None,
    alpn: tuple[str, ...],
    states: str,
    form: str,
) -> None:
    """Explain which server a client would get, and why.

    It walks the client through the configuration FILE, step by step: bind, route, certificate, backend, server.
    The proxy need not run, and nothing is connected. The running proxy answers the same for its present state:
    mailproxy ctl explain client=ADDR port=N.
    """
    try:
        config = _load_any(file)
    except ConfigError as error:
        _refuse(error)
    from mailproxy.cli.explain import run_explain  # late, so that other commands need not import trio

    sys.exit(
        run_explain(config, client=client, port=port, bind=bind, sni=sni, alpn=alpn, states=states, form=form)
    )


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--socket", "-s", "where", metavar="SOCKET", help="The admin socket: a path or HOST:PORT.")
@click.option(
    "--config", "-c", "file", type=click.Path(path_type=Path, readable=False), metavar="FILE",
    help="Take the admin socket from this configuration.",
)  # fmt: skip
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ctl(where: str | None, file: Path | None, command: tuple[str, ...]) -> None:
    """Send a command to the running proxy, such as: show stat. Without one, read commands from a prompt.

    The commands are HAProxy's runtime commands: "mailproxy ctl help" lists them. Several are separated by
    semicolons. Without -s and -c, the socket is /run/mailproxy/admin.sock. Exit code 1: an answer is an
    error, or the proxy cannot be reached.

    "mailproxy ctl tail" follows ends of sessions, and events. It takes --frontend F, --server B/S, --end E,
    --format text|json|tcplog and --color auto|always|never.
    """
    from mailproxy.cli import ctl as client  # late, as for the other commands

    address = _admin_address(where, file)
    if command[:1] == ("tail",):
        from mailproxy.cli.tail import tail_command

        tail = tail_command(command[1:])
        sys.exit(client.run_tail(address, tail) if tail else 0)
    sys.exit(client.run_command(address, " ".join(command)) if command else client.run_prompt(address))


@main.command("import")
@click.argument("program", type=click.Choice(["haproxy", "nginx", "caddy", "traefik"]))
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path, readable=False)
)
@click.option(
    "--output", "-o", "output", type=click.Path(path_type=Path, dir_okay=False, writable=False), metavar="OUT",
    help="Write the configuration to this file.",
)  # fmt: skip
@click.option(
    "--report", "as_table", is_flag=True, help="Report as a table: file, line, directive, what was done."
)
@click.option("--strict", is_flag=True, help="Exit with 1 if there are losses.")
@click.option("--diff", "as_diff", is_flag=True, help="Print each line of the files beside what it became.")
@click.option("--mend", is_flag=True, help="Replace values that are traps for mail with the defaults.")
def import_(  # noqa: PLR0917 - click passes all of them by name
    program: str,
    files: tuple[Path, ...],
    output: Path | None,
    as_table: bool,
    strict: bool,
    as_diff: bool,
    mend: bool,
) -> None:
    """Translate the configuration of HAProxy, nginx, Caddy or Traefik, and print it.

    PROGRAM is haproxy, nginx, caddy or traefik. Several FILEs are one configuration, in the order given; a folder means
    for the files in it, by name.

    What has no equivalent is reported on standard error as FILE:LINE:COLUMN: what, and what was done instead.
    Lines with "note" lose nothing, lines with "advice" are about values that are kept and probably a mistake.
    Exit codes: 0 the meaning is known, 1 losses with --strict, 2 a file cannot be read, and nothing is printed.
    """
    from mailproxy.importers import (
        import_files,
        report_table,
        side_by_side,
    )  # late, as for the other commands

    try:
        result = import_files(program, files, mend=mend)
    except ConfigError as error:
        _refuse(error)
    if output is not None:
        try:
            output.write_text(result.text, encoding="utf-8")
        except OSError as error:
            _refuse(ConfigError([Fault("", f"cannot be written: {error.strerror}")], str(output)))
    if as_diff:
        click.echo(side_by_side(result, shutil.get_terminal_size((160, 24)).columns))
    elif output is None:
        click.echo(result.text, nl=False)
    if as_table:
        click.echo(report_table(result.entries), err=True)
    else:
        for entry in result.entries:
            click.echo(str(entry), err=True)
    sys.exit(ADVISED if strict and result.has_losses else 0)


main.add_command(certs)


@main.command()
@click.option("--socket", "-s", "where", metavar="SOCKET", help="The admin socket: a path or HOST:PORT.")
@click.option(
    "--config", "-c", "file", type=click.Path(path_type=Path, readable=False), metavar="FILE",
    help="Take the admin socket from this configuration.",
)  # fmt: skip
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=2.0, show_default=True, metavar="SECONDS",
    help="How often figures are asked for.",
)  # fmt: skip
def top(where: str | None, file: Path | None, interval: float) -> None:
    """Show the running proxy live in the terminal: servers, backends, frontends, sessions.

    ? shows the keys, Tab changes the view, q quits. Without a terminal, or with TERM=dumb, it prints one
    snapshot. Without -s and -c, the socket is /run/mailproxy/admin.sock. Exit code 1: the proxy cannot be
    reached.
    """
    from mailproxy.cli.top.run import run_top  # late, as for the other commands

    sys.exit(run_top(_admin_address(where, file), interval))


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script for shell completion.

    Load it with the shell's source command, in bash: source <(mailproxy completion bash)
    """
    from mailproxy.admin.runtime.commands import COMMANDS  # late, since it imports trio
    from mailproxy.cli.completion import completion_script

    click.echo(completion_script(shell, main, [each.words for each in COMMANDS]), nl=False)


@main.command()
@click.option(
    "--port-base",
    type=click.IntRange(1, 64000),
    help="The first of three ports to listen on.  [default: 1143, 1993 and 8405]",
)
def demo(port_base: int | None) -> None:
    """Run the proxy with two demo servers.

    It needs no configuration: the servers and a certificate come with it, all in one process.
    """
    from mailproxy.cli.demo import demo as run_demo

    run_demo(port_base)


def _admin_address(where: str | None, file: Path | None) -> AdminAddress:
    """Return the admin socket that the options name, or the default one.

    Raises:
        UsageError: Both options are given, or the socket has no such form.
    """
    from mailproxy.cli import ctl as client

    if where is not None and file is not None:
        raise click.UsageError("give either --socket or --config")
    if where is not None:
        try:
            return client.parse_socket(where)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    if file is not None:
        try:  # the rest of it may be faulty: the running proxy then has an older one
            chosen = client.choose_socket(load_admin(file).listening.values())
        except ConfigError as error:
            _refuse(error)
        if chosen is None:
            fault = Fault("admin", 'has no socket: give socket = "/run/mailproxy/admin.sock"')
            _refuse(ConfigError([fault], str(file)))
        return chosen
    return client.AdminAddress(client.DEFAULT_SOCKET)


def _load(file: Path) -> Config:
    try:
        return load(file)
    except ConfigError as error:
        _refuse(error)


def _load_any(file: Path) -> Config:
    """Load a file, or standard input for ``-``.

    Raises:
        ConfigError: The configuration cannot be read, or has faults.
    """
    if str(file) != "-":
        return load(file)
    if sys.stdin is None:  # it was closed before the program began
        raise _no_standard_input(os.strerror(errno.EBADF))
    try:
        return load_stream(sys.stdin.buffer, source="-")
    except OSError as error:
        raise _no_standard_input(error.strerror) from None


def _no_standard_input(reason: str | None) -> ConfigError:
    return ConfigError([Fault("", f"standard input cannot be read: {reason}")], "-")


def _refuse(error: ConfigError) -> NoReturn:
    click.echo(str(error), err=True)
    sys.exit(FAULTY)


def _summary(config: Config, workers: int, pieces: int) -> str:
    binds = sum(len(frontend.bind) for frontend in config.frontends.values())
    servers = sum(len(backend.servers) for backend in config.backends.values())
    parts = [_count(binds, "bind"), _count(servers, "server")]
    if workers > 1:
        parts.append(f"{workers} workers")
    if pieces:
        parts.append(f"{_count(pieces, 'piece')} of advice")
    return f"fine: {', '.join(parts)}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
