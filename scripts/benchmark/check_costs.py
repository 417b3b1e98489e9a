"""Compares what health checks cost mailproxy and HAProxy: thousands of servers, every ten seconds.

All servers are one stub, behind a loopback address for each. The figure is the processor time of the proxy's
whole process tree over the measured time, in percent of one core. There are no clients. The kinds of checks
alternate, and within each kind the proxies do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from meter import Meter

INTERVAL_S = 10.0
KINDS = ("tcp", "imap", "imap-tls")
PROXIES = ("haproxy", "mailproxy")
# After this, every server has been checked, and the checks are spread over the interval.
WARM_UP_S = 1.2 * INTERVAL_S
CAPABILITIES = b"* CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ AUTH=PLAIN\r\n"


def address(number: int) -> str:
    return f"127.1.{number // 250}.{number % 250 + 1}"


async def answer_check(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak as much IMAP as a check needs."""
    with contextlib.suppress(OSError, ssl.SSLError):
        writer.write(b"* OK IMAP4rev1 ready\r\n")
        while line := await reader.readline():
            tag, _, command = line.strip().partition(b" ")
            if command.upper() == b"LOGOUT":
                writer.write(b"* BYE\r\n" + tag + b" OK\r\n")
                break
            writer.write(CAPABILITIES + tag + b" OK\r\n")
        writer.close()


def serve(ports: multiprocessing.SimpleQueue[tuple[int, int]], pem: str) -> None:
    async def forever() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
        clear, tls = listening_socket(), listening_socket()
        await asyncio.start_server(answer_check, sock=clear)
        await asyncio.start_server(answer_check, sock=tls, ssl=context)
        ports.put((clear.getsockname()[1], tls.getsockname()[1]))
        await asyncio.Event().wait()

    asyncio.run(forever())


def listening_socket() -> socket.socket:
    """Listen on every address of the loopback interface, and of no other interface."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
    sock.bind(("", 0))
    sock.listen(4096)
    return sock


def haproxy(kind: str, servers: int, port: int) -> str:
    """Return HAProxy's configuration."""
    dialogue = "" if kind == "tcp" else (
        "    option tcp-check\n    tcp-check connect default linger\n    tcp-check expect string * OK\n".replace("* OK", "*\\ OK")
        + "    tcp-check send a1\\ CAPABILITY\\r\\n\n    tcp-check expect string a1\\ OK\n"
        + "    tcp-check send a2\\ LOGOUT\\r\\n\n    tcp-check expect string a2\\ OK\n"
    )  # fmt: skip
    options = "check-ssl verify none " if kind == "imap-tls" else ""
    lines = "".join(
        f"    server s{number} {address(number)}:{port} check {options}inter {INTERVAL_S:.0f}s\n"
        for number in range(servers)
    )
    return f"global\n    nbthread 1\ndefaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1m\n    timeout server 1m\nfrontend f\n    bind abns@mailproxy-checks-{os.getpid()}\n    default_backend b\nbackend b\n{dialogue}{lines}"


def mailproxy(kind: str, servers: int, port: int) -> str:
    """Return mailproxy's configuration."""
    tls = '\ntls = { verify = "none" }' if kind == "imap-tls" else ""
    lines = "".join(f'  "{address(number)}:{port}",\n' for number in range(servers))
    return (
        '[log]\nlevel = "warning"\n[frontends.f]\nbackend = "b"\nprotocol = "imap"\nbind = ["127.0.0.1:0"]\n'
        f'[backends.b]{tls}\ncheck = {{ type = "{kind.partition("-")[0]}", interval = "{INTERVAL_S:.0f}s" }}\n'
        f"servers = [\n{lines}]\n"
    )


COMMANDS: dict[str, tuple[Callable[[str, int, int], str], list[str]]] = {
    "haproxy": (haproxy, ["haproxy", "-db", "-f"]),
    "mailproxy": (mailproxy, [sys.executable, "-m", "mailproxy", "run"]),
}


@contextlib.contextmanager
def running(proxy: str, kind: str, servers: int, port: int, folder: Path) -> Iterator[Meter]:
    configuration, command = COMMANDS[proxy]
    file = folder / f"{proxy}-{kind}.conf"
    file.write_text(configuration(kind, servers, port))
    with (
        (folder / f"{proxy}-{kind}.log").open("wb") as log,
        subprocess.Popen([*command, file], stdout=log, stderr=log) as process,
    ):
        try:
            time.sleep(WARM_UP_S)
            if process.poll() is not None:
                sys.exit(f"bench: {proxy} ended: see {log.name}")
            yield Meter(process.pid)
        finally:
            process.terminate()


def percent(meter: Meter, seconds: float) -> float:
    """Return the processor time over some seconds, in percent of one core."""
    started, before = time.monotonic(), meter.cpu_ns()
    time.sleep(seconds)
    return (meter.cpu_ns() - before) / 1e7 / (time.monotonic() - started)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench --checks", description="Measure what health checks cost."
    )
    parser.add_argument("--servers", type=int, default=2000, metavar="N", help="default 2000")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--seconds", type=float, default=2 * INTERVAL_S, metavar="S", help="default 20")
    arguments = parser.parse_args()
    percents: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="mailproxy-checks-") as name:
        folder = Path(name)
        pem = folder / "server.pem"
        request = [
            "openssl",
            "req",
            "-x509",
            "-nodes",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ]
        subprocess.run(
            [*request, "-subj", "/CN=stub", "-keyout", pem, "-out", folder / "crt"],
            check=True,
            capture_output=True,
        )
        with pem.open("ab") as both:
            both.write((folder / "crt").read_bytes())
        ports: multiprocessing.SimpleQueue[tuple[int, int]] = multiprocessing.SimpleQueue()
        stub = multiprocessing.Process(target=serve, args=(ports, os.fspath(pem)), daemon=True)
        stub.start()
        clear, tls = ports.get()
        for number in range(arguments.rounds):
            for kind in KINDS:
                for proxy in PROXIES if number % 2 else PROXIES[::-1]:
                    port = tls if kind == "imap-tls" else clear
                    with running(proxy, kind, arguments.servers, port, folder) as meter:
                        share = percent(meter, arguments.seconds)
                    percents.setdefault((kind, proxy), []).append(share)
                    print(f"round {number + 1}  {kind:9} {proxy:10} {share:.2f} %", file=sys.stderr)
        stub.terminate()
    print(f"{arguments.servers} servers checked every {INTERVAL_S:.0f} s, percent of a core (medians):")
    for kind in KINDS:
        own, other = (statistics.median(percents[kind, proxy]) for proxy in ("mailproxy", "haproxy"))
        print(f"{kind:9}  mailproxy {own:5.1f}   haproxy {other:5.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
