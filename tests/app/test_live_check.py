"""``mailproxy check --live``: each server is tested once, with a table and with advice about failures."""

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
class Setup:
    """A folder for the configuration, and a nursery for servers."""

    folder: Path
    nursery: trio.Nursery

    @property
    def file(self) -> Path:
        return self.folder / "mailproxy.toml"

    def write(
        self, servers: Servers, *, check: str = "imap", bind: str = "127.0.0.1:0", **backend: str
    ) -> None:
        """Write a configuration. Values are TOML, but ``check`` is a plain string or an inline table."""
        extra_keys = "\n".join(f"{key} = {value}" for key, value in backend.items())
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
            {extra_keys}
        """)

    async def check(self, *options: str) -> Result:
        """Run the command in a thread, because it runs its own Trio loop."""
        command = ["check", *(options or ["--live"]), str(self.file)]
        result = await trio.to_thread.run_sync(lambda: CliRunner().invoke(main, command))
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    def advice(self, result: Result) -> list[str]:
        """Return the advice without the file's name and position."""
        return [
            line.partition(": advice: ")[2] for line in result.stdout.splitlines() if ": advice: " in line
        ]

    async def imap(self) -> str:
        """Start a healthy IMAP server."""
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
    keys = ", ".join(f"{key} = {value}" for key, value in server.items())
    return f"{{ {keys} }}"


def rows(result: Result) -> list[list[str]]:
    """Return the cells of the table, without the milliseconds."""
    *table, _summary = [line for line in result.stdout.splitlines() if ": advice: " not in line]
    lines = [re.split(r" {2,}", line) for line in table]
    assert lines[0] == HEADINGS
    assert all(cell[4].isdigit() for cell in lines[1:])
    return [[*cell[:4], *cell[5:]] for cell in lines[1:]]


@pytest.fixture
def setup(tmp_path: Path, nursery: trio.Nursery) -> Setup:
    return Setup(tmp_path, nursery)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


async def test_healthy_and_failing_servers(setup: Setup) -> None:
    """Rows have the order of the file, even if the checks end in another order."""
    silent, busy = await setup.scripted(*stay_silent()), await setup.scripted(*collect(BUSY))
    healthy, refusing = await setup.imap(), await setup.refusing()
    addresses = {"d1": silent.address, "d2": healthy, "d3": refusing, "d4": busy.address}
    servers = [{"name": f'"{name}"', "address": f'"{address}"'} for name, address in addresses.items()]
    setup.write(servers, timeouts='{ check = "3s" }')
    result = await setup.check()
    outcomes = ["L7TOUT the greeting", "L7OK", REFUSED, "L7STS BYE too busy"]
    assert rows(result) == [
        ["b", name, address, f"imap :{port_of(address)}", outcome]
        for (name, address), outcome in zip(addresses.items(), outcomes, strict=True)
    ]
    assert setup.advice(result) == [
        f'backends.b.servers[0]: d1 is not fit for sessions: Layer7 timeout, info: "the greeting" ({SILENT})',
        f"backends.b.servers[2]: d3 is not fit for sessions: {CONNECTION_REFUSED}",
        'backends.b.servers[3]: d4 is not fit for sessions: Layer7 wrong status, code: 0, info: "BYE too busy"',
    ]
    assert result.stdout.splitlines()[-1] == f"{setup.file}: fine: 1 bind, 4 servers, 3 pieces of advice"
    assert result.exit_code == 0


@pytest.mark.parametrize(("is_healthy", "code"), [(True, 0), (False, 1)])
async def test_strict_exit_code_with_failing_server(setup: Setup, is_healthy: bool, code: int) -> None:
    setup.write([await setup.imap(), *([] if is_healthy else [await setup.refusing()])])
    assert (await setup.check("--live", "--strict")).exit_code == code


async def test_table_shows_the_check_type(setup: Setup, throw_away_ca: ThrowAwayCA) -> None:
    server = ImapServer(tls=throw_away_ca.server_context("127.0.0.1"))
    await setup.nursery.start(server.serve)
    setup.write([server.address], check=f'{{ type = "tls", tls = {{ ca = "{throw_away_ca.pem}" }} }}')
    (row,) = rows(await setup.check())
    assert row[3:] == [f"tls :{port_of(server.address)} TLS", "L6OK"]


async def test_untrusted_certificate_is_reported(setup: Setup, throw_away_ca: ThrowAwayCA) -> None:
    context = throw_away_ca.server_context("127.0.0.1")
    server = ScriptedServer(collect(GREETING), tls=context)
    await setup.nursery.start(server.serve)
    setup.write([server.address], check='{ type = "imap", tls = true }')
    result = await setup.check()
    (row,) = rows(result)
    assert row[4] == "L6RSP unable to get local issuer certificate"
    assert len(setup.advice(result)) == 1


async def test_script_check_reports_a_closed_port(setup: Setup) -> None:
    open_port, closed_port = port_of(await setup.imap()), port_of(await setup.refusing())
    steps = [
        f'{{ connect = {{ port = {port} }} }}, {{ expect = "* OK" }}' for port in (open_port, closed_port)
    ]
    setup.write(["127.0.0.1"], check=f'{{ type = "script", steps = [{", ".join(steps)}] }}')
    (row,) = rows(await setup.check())
    assert row[3] == f"script :{open_port} + script :{closed_port}"
    assert row[4].startswith(REFUSED)


async def test_servers_without_check_are_half_open_connected(setup: Setup) -> None:
    busy, refusing = await setup.scripted(*collect(BUSY)), await setup.refusing()
    setup.write([busy.address, refusing], check="none")
    result = await setup.check()
    assert [row[3:] for row in rows(result)] == [
        [f"tcp :{port_of(busy.address)}", "L4OK"],
        [f"tcp :{port_of(refusing)}", REFUSED],
    ]
    assert busy.accepted == 0, "the half-open connect is not accepted"
    assert len(setup.advice(result)) == 1


async def test_unix_socket_servers(setup: Setup, tmp_path: Path) -> None:
    server = ScriptedServer(collect(BUSY), bind=f"unix:{tmp_path}/s1")
    await setup.nursery.start(server.serve)
    setup.write([server.address, f"unix:{tmp_path}/s2"], check="tcp")
    assert [row[1:] for row in rows(await setup.check())] == [
        ["s1", f"unix:{tmp_path}/s1", "tcp", "L4OK"],
        ["s2", f"unix:{tmp_path}/s2", "tcp", "L4CON No such file or directory"],
    ]


# Host names.


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only mail.internal resolves, and lookups of slow.internal get no answer."""

    async def resolve(host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        if host == "slow.internal":
            await trio.sleep_forever()
        if host != "mail.internal":
            raise OSError(-2, "Name or service not known")
        return [(2, 1, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)


async def test_host_name_is_resolved(setup: Setup, hosts: None) -> None:
    port = port_of(await setup.imap())
    setup.write([f"mail.internal:{port}"])
    (row,) = rows(await setup.check())
    assert row[1:] == [
        f"mail.internal:{port}", f"mail.internal:{port} (127.0.0.1)", f"imap :{port}", "L7OK",
    ]  # fmt: skip


async def test_unresolvable_name_is_reported(setup: Setup, hosts: None) -> None:
    setup.write(["nowhere.internal:143"])
    result = await setup.check()
    fact = "nowhere.internal: Name or service not known"
    (row,) = rows(result)
    assert row[2:] == ["nowhere.internal:143 (unknown)", "imap :143", f"L4CON {fact}"]
    assert setup.advice(result) == [
        f'backends.b.servers[0]: nowhere.internal:143 is not fit for sessions: Layer4 connection problem, info: "{fact}"'
    ]


async def test_silent_name_server_is_reported(setup: Setup, hosts: None) -> None:
    setup.write(["slow.internal:143"], timeouts='{ check = "50ms" }')
    (row,) = rows(await setup.check())
    assert row[4] == "L4TOUT slow.internal: no name server answers"


# Ports.


@pytest.mark.parametrize("address", ["127.0.0.1", "mail.internal"])
async def test_client_dependent_port_is_unknown(setup: Setup, hosts: None, address: str) -> None:
    """That is not the server's fault."""
    setup.write([address])
    result = await setup.check("--live", "--strict")
    (row,) = rows(result)
    assert row[4] == "UNK its port is the client's, which is known only when the proxy runs"
    assert setup.advice(result) == []
    assert result.exit_code == 0


async def test_server_without_port_uses_bind_port(setup: Setup) -> None:
    port = port_of(await setup.imap())
    setup.write(["127.0.0.1"], bind=f"127.0.0.2:{port}")
    assert rows(await setup.check()) == [["b", "127.0.0.1", "127.0.0.1", f"imap :{port}", "L7OK"]]


# Cases without connections or listeners.


async def test_check_without_live_connects_to_nothing(setup: Setup) -> None:
    server = await setup.scripted(*collect(GREETING))
    setup.write([server.address])
    result = await setup.check("--strict")
    assert (result.stdout, result.exit_code) == (f"{setup.file}: fine: 1 bind, 1 server\n", 0)
    assert server.accepted == 0


async def test_faulty_configuration_connects_to_nothing(setup: Setup) -> None:
    server = await setup.scripted(*collect(GREETING))
    setup.write([server.address], tls='{ ca = "nowhere.pem" }')
    result = await setup.check()
    assert result.exit_code == 2
    assert result.stdout == ""
    assert server.accepted == 0


async def test_live_check_opens_no_binds(setup: Setup) -> None:
    """A proxy may be running with the same file."""
    server = await setup.scripted(*collect(GREETING))
    running_proxy = await setup.scripted(*collect(GREETING))
    setup.write([server.address], check="tcp", bind=running_proxy.address)
    assert (await setup.check()).exit_code == 0


async def test_unanswered_connect_times_out(setup: Setup) -> None:
    address: str = await setup.nursery.start(UnansweredServer().serve)
    setup.write([address], timeouts='{ check = "50ms" }')
    (row,) = rows(await setup.check())
    assert row[4] == "L4TOUT"


@pytest.mark.parametrize(
    ("playbook", "check", "hint"),
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
        (stay_silent(), '{ type = "imap", timeout = "2s" }', SILENT),
    ],
    ids=["header-taken-for-commands", "other-answer", "closed", "closed-with-header", "plain-text", "silent"],
)
async def test_common_mistakes_get_hints(setup: Setup, playbook: Any, check: str, hint: str) -> None:
    server = await setup.scripted(*playbook)
    setup.write([server.address], check=check)
    (line,) = setup.advice(await setup.check())
    assert line.startswith("backends.b.servers[0]: ")
    assert f"({hint}" in line if hint else "(" not in line


async def test_offers_that_clients_and_proxy_should_not_get_are_advised(
    setup: Setup, throw_away_ca: ThrowAwayCA
) -> None:
    """XCLIENT shows that the server trusts the proxy, STARTTLS that it has not noticed the client's TLS."""
    imap = await setup.scripted(
        *collect(b"* OK ready\r\n* CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN\r\na1 OK\r\n")
    )
    pop3 = await setup.scripted(*collect(b"+OK [XCLIENT] ready\r\n+OK\r\nUSER\r\n.\r\n"))
    certificate = throw_away_ca.issue("imap.example.com")
    setup.file.write_text(f"""
        process.user = "{CURRENT_USER}"
        [defaults]
        frontend = {{ tls = {{ certificates = ["{certificate}"] }} }}
        backend = {{ send_proxy = "none" }}
        [frontends.f]
        protocol = "imap"
        backend = "b"
        bind = [{{ address = "127.0.0.1:0", mode = "tls" }}]
        [frontends.g]
        protocol = "pop3"
        backend = "c"
        bind = [{{ address = "127.0.0.1:0", mode = "tls" }}]
        [backends.b]
        check = {{ type = "imap" }}
        servers = ["{imap.address}"]
        [backends.c]
        check = {{ type = "pop3" }}
        servers = ["{pop3.address}"]
    """)
    starttls, xclient = setup.advice(await setup.check())
    assert starttls.startswith(
        f"backends.b.servers[0]: {imap.address} offers STARTTLS to clients whose TLS ends here"
    )
    assert xclient.startswith(
        f"backends.c.servers[0]: {pop3.address} offers XCLIENT, so it trusts this proxy"
    )


NO_LOGIN = b"* OK ready\r\n* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED\r\na1 OK\r\n"


@pytest.mark.parametrize(
    ("keys", "is_advised"),
    [
        (("tls", "{}", "none"), True),
        (("tls", "{}", "v2"), True),
        # The header of a check has no client TLS facts, but that of a session has.
        (("tls", "{}", "v2-ssl"), False),
        (("tls", '{ send_proxy = "none" }', "v2"), False),
        (("forward", '{ type = "imap" }', "none"), False),  # clients do STARTTLS themselves
    ],
)
async def test_logindisabled_is_advised(
    setup: Setup, throw_away_ca: ThrowAwayCA, keys: tuple[str, str, str], is_advised: bool
) -> None:
    mode, check, send_proxy = keys
    server = await setup.scripted(*collect(NO_LOGIN))
    certificate = throw_away_ca.issue("imap.example.com")
    tls = f'tls = {{ certificates = ["{certificate}"] }}' if mode == "tls" else ""
    setup.file.write_text(f"""
        process.user = "{CURRENT_USER}"
        [frontends.f]
        protocol = "imap"
        backend = "b"
        bind = [{{ address = "127.0.0.1:0", mode = "{mode}" }}]
        {tls}
        [backends.b]
        send_proxy = "{send_proxy}"
        check = {check}
        servers = ["{server.address}"]
    """)
    result = await setup.check()
    (row,) = rows(result)
    assert row[4] == "L7OK", "the check itself succeeds"
    playbook = [line for line in setup.advice(result) if "LOGINDISABLED" in line]
    assert len(playbook) == is_advised
    for line in playbook:
        assert 'no client of a bind with mode = "tls" can log in: give send_proxy = "v2-ssl"' in line
