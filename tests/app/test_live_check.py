"""``mailproxy check --live``: every server is looked at once, and what came of it is a line of a table and, if need be, advice."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen
from click.testing import CliRunner, Result

from mailproxy.cli import main
from mailproxy.testing import (
    ImapServer,
    Mailstore,
    RefusingServer,
    ScriptedServer,
    ThrowAwayCA,
    UnansweredServer,
    collect,
    stay_silent,
)
from mailproxy.testing.playbook import Close, Send
from tests.support.startup_config import CURRENT_USER

HEADINGS = ["backend", "server", "address", "check", "ms", "result"]
GREETING, BUSY = b"* OK ready\r\n", b"* BYE too busy\r\n"
REFUSED = "L4CON Connection refused"
CONNECTION_REFUSED = 'Layer4 connection problem, info: "Connection refused"'

SILENT = (
    "the port may speak TLS from the first byte, and waits for it: give tls then; or the listener may wait for a PROXY header "
    '(Dovecot: haproxy = yes): give send_proxy = "v2-ssl" then, or "v2" to Postfix'
)
TOOK_HEADER = "the listener may have taken the PROXY header for commands"

Servers = Iterable[str | dict[str, str]]


@frozen
class Bench:
    """Where configurations are written and servers run."""

    folder: Path
    nursery: trio.Nursery

    @property
    def file(self) -> Path:
        return self.folder / "mailproxy.toml"

    def write(
        self, servers: Servers, *, check: str = "imap", bind: str = "127.0.0.1:0", **backend: str
    ) -> None:
        """Values are as in the file, but for check, which is a string or a table."""
        more = "\n".join(f"{key} = {value}" for key, value in backend.items())
        check = check if check.startswith("{") else f'"{check}"'
        self.file.write_text(f"""
            process.user = "{CURRENT_USER}"
            [frontends.f]
            protocol = "imap"
            backend = "b"
            bind = ["{bind}"]
            [backends.b]
            send_proxy = "none"
            check = {check}
            servers = [{", ".join(_inline(server) for server in servers)}]
            {more}
        """)

    async def look(self, *options: str) -> Result:
        """Run the command, which runs a loop of its own."""
        command = ["check", *(options or ["--live"]), str(self.file)]
        result = await trio.to_thread.run_sync(lambda: CliRunner().invoke(main, command))
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    def advice(self, result: Result) -> list[str]:
        """Without the file's name and the line."""
        return [
            line.partition(": advice: ")[2] for line in result.stdout.splitlines() if ": advice: " in line
        ]

    async def imap(self) -> str:
        """A server that is well."""
        address: str = await self.nursery.start(ImapServer("d", Mailstore({})).serve)
        return address

    async def scripted(self, *playbook: Any) -> ScriptedServer:
        server = ScriptedServer(playbook)
        await self.nursery.start(server.serve)
        return server

    async def refusing(self) -> str:
        address: str = await self.nursery.start(RefusingServer().serve)
        return address


def _inline(server: str | dict[str, str]) -> str:
    if isinstance(server, str):
        return f'"{server}"'
    words = ", ".join(f"{key} = {value}" for key, value in server.items())
    return f"{{ {words} }}"


def rows(result: Result) -> list[list[str]]:
    """The table's cells, without the milliseconds."""
    *table, _summary = [line for line in result.stdout.splitlines() if ": advice: " not in line]
    cells = [re.split(r" {2,}", line) for line in table]
    assert cells[0] == HEADINGS
    assert all(cell[4].isdigit() for cell in cells[1:])
    return [[*cell[:4], *cell[5:]] for cell in cells[1:]]


@pytest.fixture
def bench(tmp_path: Path, nursery: trio.Nursery) -> Bench:
    return Bench(tmp_path, nursery)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


async def test_servers_that_are_well_and_servers_that_are_not(bench: Bench) -> None:
    """In their order in the file, however long each takes."""
    silent, busy = await bench.scripted(*stay_silent()), await bench.scripted(*collect(BUSY))
    well, refusing = await bench.imap(), await bench.refusing()
    addresses = {"d1": silent.address, "d2": well, "d3": refusing, "d4": busy.address}
    servers = [{"name": f'"{name}"', "address": f'"{address}"'} for name, address in addresses.items()]
    bench.write(servers, timeouts='{ check = "200ms" }')
    result = await bench.look()
    outcomes = ["L7TOUT the greeting", "L7OK", REFUSED, "L7STS BYE too busy"]
    assert rows(result) == [
        ["b", name, address, f"imap :{port_of(address)}", outcome]
        for (name, address), outcome in zip(addresses.items(), outcomes, strict=True)
    ]
    assert bench.advice(result) == [
        f'backends.b.servers[0]: d1 is not fit for sessions: Layer7 timeout, info: "the greeting" ({SILENT})',
        f"backends.b.servers[2]: d3 is not fit for sessions: {CONNECTION_REFUSED}",
        'backends.b.servers[3]: d4 is not fit for sessions: Layer7 wrong status, code: 0, info: "BYE too busy"',
    ]
    assert result.stdout.splitlines()[-1] == f"{bench.file}: fine: 1 bind, 4 servers, 3 pieces of advice"
    assert result.exit_code == 0


@pytest.mark.parametrize(("is_well", "code"), [(True, 0), (False, 1)])
async def test_strictly_every_server_is_well(bench: Bench, is_well: bool, code: int) -> None:
    bench.write([await bench.imap(), *([] if is_well else [await bench.refusing()])])
    assert (await bench.look("--live", "--strict")).exit_code == code


async def test_what_a_check_does_is_said(bench: Bench, throw_away_ca: ThrowAwayCA) -> None:
    server = ImapServer(tls=throw_away_ca.server_context("127.0.0.1"))
    await bench.nursery.start(server.serve)
    bench.write([server.address], check=f'{{ type = "tls", tls = {{ ca = "{throw_away_ca.pem}" }} }}')
    (row,) = rows(await bench.look())
    assert row[3:] == [f"tls :{port_of(server.address)} TLS", "L6OK"]


async def test_a_certificate_that_nobody_trusts(bench: Bench, throw_away_ca: ThrowAwayCA) -> None:
    context = throw_away_ca.server_context("127.0.0.1")
    server = ScriptedServer(collect(GREETING), tls=context)
    await bench.nursery.start(server.serve)
    bench.write([server.address], check='{ type = "imap", tls = true }')
    result = await bench.look()
    (row,) = rows(result)
    assert row[4] == "L6RSP unable to get local issuer certificate"
    assert len(bench.advice(result)) == 1


async def test_all_ports_of_a_check_must_be_there(bench: Bench) -> None:
    there, not_there = port_of(await bench.imap()), port_of(await bench.refusing())
    steps = [f'{{ connect = {{ port = {port} }} }}, {{ expect = "* OK" }}' for port in (there, not_there)]
    bench.write(["127.0.0.1"], check=f'{{ type = "script", steps = [{", ".join(steps)}] }}')
    (row,) = rows(await bench.look())
    assert row[3] == f"script :{there} + script :{not_there}"
    assert row[4].startswith(REFUSED)


async def test_servers_that_are_not_checked_are_connected_to(bench: Bench) -> None:
    busy, refusing = await bench.scripted(*collect(BUSY)), await bench.refusing()
    bench.write([busy.address, refusing], check="none")
    result = await bench.look()
    assert [row[3:] for row in rows(result)] == [
        [f"tcp :{port_of(busy.address)}", "L4OK"],
        [f"tcp :{port_of(refusing)}", REFUSED],
    ]
    assert busy.accepted == 0, "it has not heard of it"
    assert len(bench.advice(result)) == 1


async def test_unix_sockets(bench: Bench, tmp_path: Path) -> None:
    server = ScriptedServer(collect(BUSY), bind=f"unix:{tmp_path}/s1")
    await bench.nursery.start(server.serve)
    bench.write([server.address, f"unix:{tmp_path}/s2"], check="tcp")
    assert [row[1:] for row in rows(await bench.look())] == [
        ["s1", f"unix:{tmp_path}/s1", "tcp", "L4OK"],
        ["s2", f"unix:{tmp_path}/s2", "tcp", "L4CON No such file or directory"],
    ]


# Names


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only mail.internal is known, and nobody answers for slow.internal."""

    async def resolve(host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        if host == "slow.internal":
            await trio.sleep_forever()
        if host != "mail.internal":
            raise OSError(-2, "Name or service not known")
        return [(2, 1, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)


async def test_a_name_is_resolved(bench: Bench, hosts: None) -> None:
    port = port_of(await bench.imap())
    bench.write([f"mail.internal:{port}"])
    (row,) = rows(await bench.look())
    assert row[1:] == [
        f"mail.internal:{port}", f"mail.internal:{port} (127.0.0.1)", f"imap :{port}", "L7OK",
    ]  # fmt: skip


async def test_a_name_that_does_not_resolve(bench: Bench, hosts: None) -> None:
    bench.write(["nowhere.internal:143"])
    result = await bench.look()
    fact = "nowhere.internal: Name or service not known"
    (row,) = rows(result)
    assert row[2:] == ["nowhere.internal:143 (unknown)", "imap :143", f"L4CON {fact}"]
    assert bench.advice(result) == [
        f'backends.b.servers[0]: nowhere.internal:143 is not fit for sessions: Layer4 connection problem, info: "{fact}"'
    ]


async def test_a_name_server_that_does_not_answer(bench: Bench, hosts: None) -> None:
    bench.write(["slow.internal:143"], timeouts='{ check = "50ms" }')
    (row,) = rows(await bench.look())
    assert row[4] == "L4TOUT slow.internal: no name server answers"


# Ports


@pytest.mark.parametrize("address", ["127.0.0.1", "mail.internal"])
async def test_a_port_that_is_known_only_when_the_proxy_runs(bench: Bench, hosts: None, address: str) -> None:
    """Which is no fault of the server's."""
    bench.write([address])
    result = await bench.look("--live", "--strict")
    (row,) = rows(result)
    assert row[4] == "UNK its port is the client's, which is known only when the proxy runs"
    assert bench.advice(result) == []
    assert result.exit_code == 0


async def test_the_port_of_the_bind_is_that_of_a_server_without_one(bench: Bench) -> None:
    port = port_of(await bench.imap())
    bench.write(["127.0.0.1"], bind=f"127.0.0.2:{port}")
    assert rows(await bench.look()) == [["b", "127.0.0.1", "127.0.0.1", f"imap :{port}", "L7OK"]]


# What is not done


async def test_without_live_nothing_is_connected(bench: Bench) -> None:
    server = await bench.scripted(*collect(GREETING))
    bench.write([server.address])
    result = await bench.look("--strict")
    assert (result.stdout, result.exit_code) == (f"{bench.file}: fine: 1 bind, 1 server\n", 0)
    assert server.accepted == 0


async def test_a_faulty_configuration_is_not_tried(bench: Bench) -> None:
    server = await bench.scripted(*collect(GREETING))
    bench.write([server.address], tls='{ ca = "nowhere.pem" }')
    result = await bench.look()
    assert result.exit_code == 2
    assert result.stdout == ""
    assert server.accepted == 0


async def test_nothing_listens_meanwhile(bench: Bench) -> None:
    """A proxy may run with the same file."""
    server = await bench.scripted(*collect(GREETING))
    taken = await bench.scripted(*collect(GREETING))
    bench.write([server.address], check="tcp", bind=taken.address)
    assert (await bench.look()).exit_code == 0


async def test_a_server_that_does_not_answer(bench: Bench) -> None:
    address: str = await bench.nursery.start(UnansweredServer().serve)
    bench.write([address], timeouts='{ check = "50ms" }')
    (row,) = rows(await bench.look())
    assert row[4] == "L4TOUT"


@pytest.mark.parametrize(
    ("said", "check", "hint"),
    [
        (
            (Send(b"* OK hi\r\n* BYE Too many invalid IMAP commands.\r\n"), Close()),
            '{ type = "imap", send_proxy = "v2" }',
            TOOK_HEADER,
        ),
        ((Send(b"500 5.5.2 Error: bad syntax\r\n"), Close()), '{ type = "imap" }', ""),
        ((Close(),), '{ type = "imap" }', "the listener may wait for a PROXY header"),
        ((Close(),), '{ type = "imap", send_proxy = "v1" }', TOOK_HEADER),
        (
            collect(GREETING),
            '{ type = "imap", tls = true }',
            "the port speaks clear text first: remove tls, or give the port that speaks TLS",
        ),
        (stay_silent(), '{ type = "imap", timeout = "300ms" }', SILENT),
    ],
    ids=["header-taken-for-commands", "anything", "closed", "closed-with-header", "clear", "silent"],
)
async def test_usual_mistakes_are_recognised(bench: Bench, said: Any, check: str, hint: str) -> None:
    server = await bench.scripted(*said)
    bench.write([server.address], check=check)
    (line,) = bench.advice(await bench.look())
    assert line.startswith("backends.b.servers[0]: ")
    assert f"({hint}" in line if hint else "(" not in line


NO_LOGIN = b"* OK ready\r\n* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED\r\na1 OK\r\n"


@pytest.mark.parametrize(
    ("keys", "is_said"),
    [
        (("tls", "{}", "none"), True),
        (("tls", "{}", "v2"), True),
        (
            ("tls", "{}", "v2-ssl"),
            False,
        ),  # the header of a check tells of no client's TLS, that of a session does
        (("tls", '{ send_proxy = "none" }', "v2"), False),
        (("forward", '{ type = "imap" }', "none"), False),  # clients do STARTTLS themselves
    ],
)
async def test_a_server_that_lets_nobody_log_in(
    bench: Bench, throw_away_ca: ThrowAwayCA, keys: tuple[str, str, str], is_said: bool
) -> None:
    mode, check, sends = keys
    server = await bench.scripted(*collect(NO_LOGIN))
    certificate = throw_away_ca.issue("imap.example.com")
    tls = f'tls = {{ certificates = ["{certificate}"] }}' if mode == "tls" else ""
    bench.file.write_text(f"""
        process.user = "{CURRENT_USER}"
        [frontends.f]
        protocol = "imap"
        backend = "b"
        bind = [{{ address = "127.0.0.1:0", mode = "{mode}" }}]
        {tls}
        [backends.b]
        send_proxy = "{sends}"
        check = {check}
        servers = ["{server.address}"]
    """)
    result = await bench.look()
    (row,) = rows(result)
    assert row[4] == "L7OK", "it is advice, and no failure"
    said = [line for line in bench.advice(result) if "LOGINDISABLED" in line]
    assert len(said) == is_said
    for line in said:
        assert 'no client of a bind with mode = "tls" can log in: give send_proxy = "v2-ssl"' in line
