"""``mailproxy certs``: the certificates of a configuration, and ACME."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from mailproxy.config import Config, load
from mailproxy.errors import ConfigError

if TYPE_CHECKING:
    from mailproxy.config.acme_plan import ManagedCertificate

_FAILED = 1
_FAULTY = 2
_REASONS = ("unspecified", "key-compromise", "superseded", "cessation-of-operation")

_file = click.argument("file", type=click.Path(path_type=Path, readable=False))
_names = click.argument("names", nargs=-1, metavar="[NAME]...")


@click.group()
def certs() -> None:
    """List, obtain and revoke certificates.

    Each command takes the configuration FILE, and NAMEs if it is not about all certificates. The running
    proxy need not be stopped. Exit code 1: something could not be done.
    """


@certs.command("list")
@_file
@_names
def list_(file: Path, names: tuple[str, ...]) -> None:
    """List every name with the end of its certificate, and the attempts to obtain it."""
    from mailproxy.acme.commands import list_lines  # late: other commands need it not
    from mailproxy.acme.storage import StorageError
    from mailproxy.app import load_and_check

    config = _load(file)
    try:
        for line in list_lines(config, load_and_check(config), names):
            click.echo(line)
    except ConfigError as error:
        _fail(str(error), _FAULTY)
    except StorageError as error:
        _fail(str(error), _FAILED)


@certs.command()
@_file
@_names
def obtain(file: Path, names: tuple[str, ...]) -> None:
    """Obtain certificates now, even if they are not due.

    The running proxy serves them after its next look at the files (process.certificate_interval). With
    tls-alpn-01 it must be running, because it answers the authority.
    """
    from mailproxy.acme import commands

    _run(commands.obtain, _select(file, names))


@certs.command()
@_file
@_names
def test(file: Path, names: tuple[str, ...]) -> None:
    """Obtain certificates from the authority's test directory, and keep nothing.

    With tls-alpn-01 the proxy must be running, because it answers the authority.
    """
    from mailproxy.acme import commands

    _run(commands.test, _select(file, names))


@certs.command()
@_file
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--reason", type=click.Choice(_REASONS), default="unspecified", show_default=True,
    help="Why. After key-compromise, the next certificate has another key.",
)  # fmt: skip
def revoke(file: Path, names: tuple[str, ...], reason: str) -> None:
    """Revoke the certificates of these names. The running proxy obtains others."""
    from mailproxy.acme import commands

    _run(commands.revoke, _select(file, names), reason)


@certs.command()
@_file
@_names
def tlsa(file: Path, names: tuple[str, ...]) -> None:
    """Print the TLSA records of the keys in use, and of next keys, as lines of a zone file."""
    from mailproxy.acme.tlsa import record_lines
    from mailproxy.app import load_and_check

    config = _load(file)
    try:
        for line in record_lines(config, load_and_check(config), names):
            click.echo(line)
    except ConfigError as error:
        _fail(str(error), _FAULTY)


def _select(file: Path, names: tuple[str, ...]) -> list[ManagedCertificate]:
    """Return the certificates of these names, with a storage for each."""
    from mailproxy.acme.storage import Storage, StorageError
    from mailproxy.app import load_and_check
    from mailproxy.app.privileges import configured_owner
    from mailproxy.config.acme_plan import AcmePlan

    config = _load(file)
    try:
        load_and_check(config)
        certificates = AcmePlan(config).select(names)
    except ConfigError as error:
        _fail(str(error), _FAULTY)
    except LookupError as error:
        _fail(f"{file}: no certificate by ACME has the name {error.args[0]}", _FAULTY)
    if not certificates:
        _fail(f"{file}: no frontend has tls.acme: there is nothing to obtain", _FAULTY)
    try:
        for each in certificates:
            Storage(each.acme.storage).prepare(configured_owner(config))
    except StorageError as error:
        _fail(str(error), _FAILED)
    return certificates


def _run(job: object, *args: object) -> None:
    import trio

    def complain(line: str) -> None:
        click.echo(line, err=True)

    is_good: bool = trio.run(job, *args, click.echo, complain)  # type: ignore[arg-type]  # of several signatures
    sys.exit(0 if is_good else _FAILED)


def _load(file: Path) -> Config:
    try:
        return load(file)
    except ConfigError as error:
        _fail(str(error), _FAULTY)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)
