"""The commands. Exit codes: 0 done, 1 advice with ``--strict``, 2 a faulty configuration or command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NoReturn

import click
from click.shell_completion import get_completion_class

from mailproxy import __version__
from mailproxy.config import Config, json_schema, load
from mailproxy.errors import ConfigError

FAULTY = 2
ADVISED = 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="mailproxy %(version)s")
def main() -> None:
    """A proxy and load balancer for IMAP, POP3, SMTP submission, MX and ManageSieve.

    Documentation: man mailproxy, man mailproxy.toml; examples in share/mailproxy/config of the installation.
    """


@main.command()
@click.argument("file", type=click.Path(path_type=Path, readable=False))
def run(file: Path) -> None:
    """Run in the foreground.

    SIGTERM drains and stops, a second SIGTERM or SIGINT stops now, SIGUSR2 (and SIGHUP) reopen log files.
    """
    config = _load(file)
    from mailproxy.app import run as run_proxy  # the loop is loaded only by commands that need it

    try:
        run_proxy(config)
    except ConfigError as error:
        _refuse(error)


@main.command()
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.option("--strict", is_flag=True, help="Exit with 1 if there is advice.")
@click.option("--live", is_flag=True, help="Resolve and check every server once, and print a table.")
def check(file: Path, strict: bool, live: bool) -> None:
    """Say what is wrong with a configuration, and what could be better.

    Files, certificates, users and ciphers are tried, too. Nothing listens and, without --live, nothing is connected.
    """
    config = _load(file)
    from mailproxy.app import advise, load_material, table, try_servers, worker_count

    try:
        material = load_material(config)
    except ConfigError as error:
        _refuse(error)
    if material.expired:
        _refuse(ConfigError(material.expired, config.source))
    advice = advise(config, material)
    if live:
        tried = try_servers(config, material)
        click.echo(table(tried))
        advice += [server.fault for server in tried if server.fault is not None]
    for line in advice:
        click.echo(f"{file}: advice: {line}", err=True)
    workers = worker_count(config)
    processes = f", {workers} workers" if workers > 1 else ""
    click.echo(
        f"{file}: {_summary(config)}{processes}"
        + (f", {_count(len(advice), 'piece')} of advice" if advice else "")
    )
    sys.exit(ADVISED if advice and strict else 0)


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print completion for a shell, which source reads."""
    complete = get_completion_class(shell)
    assert complete is not None  # noqa: S101 - one of click's own
    click.echo(complete(main, {}, "mailproxy", "_MAILPROXY_COMPLETE").source())


@main.command()
@click.option("--port-base", type=click.IntRange(1, 64000), help="First of the ports to listen on.")
def demo(port_base: int | None) -> None:
    """A first look: the proxy, two mail servers and a certificate, all in one process."""
    from mailproxy.cli.demo import demo as run_demo

    run_demo(port_base)


def _load(file: Path) -> Config:
    try:
        return load(file)
    except ConfigError as error:
        _refuse(error)


def _refuse(error: ConfigError) -> NoReturn:
    click.echo(str(error), err=True)
    sys.exit(FAULTY)


def _summary(config: Config) -> str:
    binds = sum(len(frontend.bind) for frontend in config.frontends.values())
    servers = sum(len(backend.servers) for backend in config.backends.values())
    return f"fine: {_count(binds, 'bind')}, {_count(servers, 'server')}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
