"""The in-memory IMAP server, tested with independent clients: imaplib and, if installed, curl."""

from __future__ import annotations

import imaplib
from collections.abc import Awaitable, Callable
from shutil import which
from typing import TYPE_CHECKING, TypeAlias

import pytest
import trio

from mailproxy.testing import ImapServer, Mailstore, dial
from tests.support.timeouts import TIMEOUT_S, fail_after_timeout

if TYPE_CHECKING:
    import ssl

    from mailproxy.testing import ThrowAwayCA


Contexts: TypeAlias = "tuple[ssl.SSLContext, ssl.SSLContext] | None"
Start = Callable[[ImapServer], Awaitable[str]]

MESSAGE = b"From: a@example.com\r\nSubject: hello\r\n\r\nworld\r\n"


@pytest.fixture
def start(nursery: trio.Nursery) -> Start:
    """Start a server and return its address. Tests with it, or with ``server``, have a time limit."""
    nursery.start_soon(fail_after_timeout)

    async def start(server: ImapServer) -> str:
        address: str = await nursery.start(server.serve)
        return address

    return start


@pytest.fixture(params=["clear", "tls"])
def tls(request: pytest.FixtureRequest, throw_away_ca: ThrowAwayCA) -> Contexts:
    if request.param == "clear":
        return None
    return throw_away_ca.server_context("localhost", "127.0.0.1"), throw_away_ca.client_context()


@pytest.fixture
async def server(start: Start, tls: Contexts) -> ImapServer:
    server = ImapServer("d1", tls=tls[0] if tls else None)
    server.store.mailbox("user").append(MESSAGE)
    await start(server)
    return server


def connect(address: str, context: ssl.SSLContext | None) -> imaplib.IMAP4:
    host, _, port = address.rpartition(":")
    if context is None:
        return imaplib.IMAP4(host, int(port), timeout=TIMEOUT_S)
    return imaplib.IMAP4_SSL(host, int(port), ssl_context=context, timeout=TIMEOUT_S)


async def run_in_thread(use_imaplib: Callable[[], None]) -> None:
    await trio.to_thread.run_sync(use_imaplib)


async def test_imaplib_session(server: ImapServer, tls: Contexts) -> None:
    def use_imaplib() -> None:
        with connect(server.address, tls[1] if tls else None) as client:
            assert b"d1 ready" in client.welcome
            client.login("user", "secret")
            assert client.list() == ("OK", [b'() "/" "INBOX"'])
            assert client.select() == ("OK", [b"1"])
            assert client.search(None, "ALL") == ("OK", [b"1"])
            assert client.fetch("1", "(UID BODY.PEEK[])")[1] == [(b"1 (UID 1 BODY[] {46}", MESSAGE), b")"]
            assert client.uid("FETCH", "1", "(FLAGS)")[1] == [b"1 (UID 1 FLAGS ())"]
            assert client.append("INBOX", r"(\Flagged)", imaplib.Time2Internaldate(1e9), MESSAGE)[0] == "OK"
            assert client.store("2", "+FLAGS", r"(\Deleted)")[1] == [rb"2 (FLAGS (\Deleted \Flagged))"]
            assert client.expunge() == ("OK", [b"2"])
            assert client.create("Archive")[0] == "OK"
            assert client.status("Archive", "(MESSAGES)")[1] == [b'"Archive" (MESSAGES 0)']
            client.close()
            assert client.logout()[0] == "BYE"

    await run_in_thread(use_imaplib)
    await server.wait_ended()


async def test_imaplib_authenticates(server: ImapServer, tls: Contexts) -> None:
    def use_imaplib() -> None:
        with connect(server.address, tls[1] if tls else None) as client:
            client.authenticate("PLAIN", lambda _: b"\0user\0secret")
        with connect(server.address, tls[1] if tls else None) as client, pytest.raises(imaplib.IMAP4.error):
            client.login("user", "wrong")

    await run_in_thread(use_imaplib)


async def test_message_of_50_mb(server: ImapServer, tls: Contexts) -> None:
    body = b"Subject: large\r\n\r\n" + b"".join(b"%070d\r\n" % number for number in range(700_000))

    def use_imaplib() -> None:
        with connect(server.address, tls[1] if tls else None) as client:
            client.login("user", "secret")
            client.select()
            client.append("INBOX", "", "", body)
            fetched = client.fetch("2", "(BODY[])")[1][0]
            assert isinstance(fetched, tuple)
            assert fetched[1] == body

    await run_in_thread(use_imaplib)


async def test_idle_reports_changes_by_another_server(start: Start) -> None:
    store = Mailstore({"anna": "x"})
    first, second = ImapServer("d1", store), ImapServer("d2", store)
    idler = await dial(await start(first))
    async with idler:
        await idler.receive_line()
        await idler.send(b"a LOGIN anna x\r\nb SELECT INBOX\r\nc IDLE\r\n")
        while await idler.receive_line() != b"+ idling\r\n":
            pass
        async with await dial(await start(second)) as other:
            await other.send(b"a LOGIN anna x\r\nb APPEND INBOX {5+}\r\nhello\r\n")
            assert await idler.receive_line() == b"* 1 EXISTS\r\n"
            await other.receive_line()
        await idler.send(b"DONE\r\nd LOGOUT\r\n")
        assert (
            await idler.receive_until_end()
            == b"c OK idle ended\r\n* BYE d1 says goodbye\r\nd OK signed out\r\n"
        )
    await first.wait_ended()
    assert store.mailbox("anna").watchers == []


async def test_reset_client_stops_watching_its_mailbox(start: Start) -> None:
    server = ImapServer()
    async with await dial(await start(server)) as client:
        await client.send(b"a LOGIN user secret\r\nb SELECT INBOX\r\nc IDLE\r\n")
        while await client.receive_line() != b"+ idling\r\n":
            pass
        client.reset()
    await server.wait_ended()
    assert server.connections[0].end == "reset"
    assert server.store.mailbox("user").watchers == []


@pytest.mark.skipif(not which("curl"), reason="curl is not installed")
async def test_curl_session(server: ImapServer, tls: Contexts, throw_away_ca: ThrowAwayCA) -> None:
    scheme, port = "imaps" if tls else "imap", server.address.rpartition(":")[2]
    for path, expected in (
        ("", b'* LIST () "/" "INBOX"\r\n'),
        ("INBOX", b'* LIST () "/" "INBOX"\r\n'),
        ("INBOX;MAILINDEX=1", MESSAGE),
        ("INBOX;UID=1;SECTION=TEXT", b"world\r\n"),
    ):
        url = f"{scheme}://127.0.0.1:{port}/{path}"
        command = ["curl", "-sS", "--cacert", str(throw_away_ca.pem), "-u", "user:secret", url]
        result = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        assert result.stdout == expected
        assert result.stderr == b""
