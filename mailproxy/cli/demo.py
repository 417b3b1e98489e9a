"""The demo: two built-in IMAP servers and the proxy in front of them, in one process, with commands to try."""

from __future__ import annotations

import shlex
import signal
import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import trio

import mailproxy
from mailproxy.testing import ImapServer, Mailstore, ThrowAwayCA

FAULTY = 2
IMAP_PORT, IMAPS_PORT, HTTP_PORT = 1143, 1993, 8405
USER, PASSWORD = "demo", "demo"

_MESSAGE = """\
From: mailproxy <demo@localhost>
To: you <demo@localhost>
Subject: Message {number} came through the proxy
Date: Sat, 7 Mar 2026 12:00:00 +0000
Message-ID: <{number}@demo.localhost>

The greeting tells which of the two servers you have talked to.
"""

_WELCOME = """\
mailproxy demo: two IMAP servers, d1 and d2, and the proxy in front of them.

  {imap}  clear text, relayed unchanged{imap_taken}
  {imaps}  TLS is terminated here; the certificate is for localhost, from a throw-away CA{imaps_taken}

Read a message, list the mailboxes:

  curl --cacert {ca} -u {user} 'imaps://localhost:{imaps_port}/INBOX;MAILINDEX=1'
  curl --cacert {ca} -u {user} imaps://localhost:{imaps_port}/INBOX
  curl -u {user} 'imap://localhost:{imap_port}/INBOX;MAILINDEX=2'

See which server greets, several times in a row:

  for i in 1 2 3 4; do curl -sv --cacert {ca} -u {user} imaps://localhost:{imaps_port} 2>&1 | grep ready; done

Speak IMAP yourself, such as  a login demo demo,  b select inbox,  c fetch 1 body[],  d logout:

  openssl s_client -connect {imaps} -CAfile {ca} -servername localhost -quiet

Look at the proxy: in a browser, in another terminal, and take a server out:

  {http}
  {mailproxy} top -s {admin}
  {mailproxy} ctl -s {admin} "set server demo/d1 state drain"

The line of each session appears here when it ends. Ctrl-C stops.
"""


def demo(port_base: int | None = None) -> None:
    """Run the demo until SIGINT or SIGTERM. Exits with code 2 if ports are taken or packages are missing.

    Args:
        port_base: The first of three ports to listen on. None for 1143, 1993 and 8405, or free ports if those
            are taken.
    """
    try:
        faults = _run(port_base)
    except ImportError as missing:
        if missing.name != "trustme":
            raise
        faults = [str(missing)]
    for fault in faults:
        click.echo(f"mailproxy demo: {fault}", err=True)
    if faults:
        sys.exit(FAULTY)


def _run(port_base: int | None) -> list[str]:
    faults: list[str] = []
    try:
        trio.run(run_demo, port_base)
    except* mailproxy.ConfigError as group:
        faults += [str(error) for error in group.exceptions]
    return faults


async def run_demo(port_base: int | None = None) -> None:
    """Serve until SIGINT or SIGTERM, and remove all files.

    Raises:
        ImportError: trustme is missing.
        ExceptionGroup: Of ConfigError, if the ports of ``port_base`` are taken.
    """
    with (
        trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
        TemporaryDirectory(prefix="mailproxy-demo-") as folder,
    ):
        ca = ThrowAwayCA(Path(folder))
        certificate = ca.issue("localhost", "127.0.0.1")
        store = _store()
        async with trio.open_nursery() as nursery:
            servers = {name: await nursery.start(ImapServer(name, store).serve) for name in ("d1", "d2")}
            ports = _ports(port_base)
            admin = Path(folder) / "admin.sock"
            config = mailproxy.from_mapping(_configuration(ports, certificate, servers, admin))
            proxy: mailproxy.Proxy = await nursery.start(mailproxy.serve, config)
            click.echo(_welcome(proxy, ports, ca.pem, admin))
            await anext(aiter(signals))
            nursery.cancel_scope.cancel()


def _store() -> Mailstore:
    """Return one store for both servers, as with mail on shared storage."""
    store = Mailstore({USER: PASSWORD})
    for number in (1, 2):
        store.mailbox(USER).append(_MESSAGE.format(number=number).replace("\n", "\r\n").encode())
    store.mailbox(USER, "Archive")
    return store


def _configuration(
    ports: tuple[int, int, int], certificate: Path, servers: dict[str, str], admin: Path
) -> dict[str, Any]:
    imap_port, imaps_port, http_port = ports
    return {
        "admin": {"socket": str(admin), "http": f"127.0.0.1:{http_port}"},
        "frontends": {
            "imap": {"protocol": "imap", "backend": "demo", "bind": [{"address": f"127.0.0.1:{imap_port}"}]},
            "imaps": {
                "protocol": "imap",
                "backend": "demo",
                "tls": {"certificates": [str(certificate)]},
                "bind": [{"address": f"127.0.0.1:{imaps_port}", "mode": "tls"}],
            },
        },
        "backends": {
            "demo": {"servers": [{"name": name, "address": address} for name, address in servers.items()]}
        },
    }


def _ports(port_base: int | None) -> tuple[int, int, int]:
    if port_base is not None:
        return port_base, port_base + 1, port_base + 2
    return _port_or_any(IMAP_PORT), _port_or_any(IMAPS_PORT), _port_or_any(HTTP_PORT) or _free_port()


def _port_or_any(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _welcome(proxy: mailproxy.Proxy, ports: tuple[int, int, int], ca: Path, admin: Path) -> str:
    imap, imaps = (proxy.frontends[name].addresses[0] for name in ("imap", "imaps"))
    return _WELCOME.format(
        imap=imap,
        imaps=imaps,
        imap_port=imap.rpartition(":")[2],
        imaps_port=imaps.rpartition(":")[2],
        ca=shlex.quote(str(ca)),
        http=f"http://127.0.0.1:{ports[2]}/",
        admin=shlex.quote(str(admin)),
        mailproxy=_program(),
        user=f"{USER}:{PASSWORD}",
        imap_taken=_taken(ports[0], IMAP_PORT),
        imaps_taken=_taken(ports[1], IMAPS_PORT),
    )


def _program() -> str:
    """Return how a shell starts the program of this environment, which need not be on the PATH."""
    return shlex.quote(str(Path(sys.executable).with_name("mailproxy")))


def _taken(port: int, usual: int) -> str:
    """Return why the port is not the usual one, which the documentation names; empty if it is."""
    return f" ({usual} is taken)" if port == 0 else ""
