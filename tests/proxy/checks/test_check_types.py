"""What a check makes of a server: each type of it, passed and failed, with HAProxy's words for how it ended."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from mailproxy.testing import (
    Close,
    Collect,
    Connection,
    ExpectLine,
    Playbook,
    RefusingServer,
    Reset,
    ScriptedServer,
    Send,
    SendSlowly,
    Stall,
    Step,
    ThrowAwayCA,
    UnansweredServer,
    collect,
    never_read,
    stay_silent,
)
from tests.support.proxy.check_harness import (
    MAIL_PROTOCOLS,
    PLAYBOOKS,
    STARTTLS_PLAYBOOKS,
    ServerPlaybook,
    check_once,
    check_options,
    server_messages,
    wait_for_down,
)
from tests.support.proxy.header_recorder import HeaderRecorder
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness

GREETING = b"* OK ready\r\n"
PASSED = "Layer7 check passed, code: 0"
CONNECTION_REFUSED = 'Layer4 connection problem, info: "Connection refused"'
TIMEOUT = "150ms"  # of checks that are to run into it
CLEAR: dict[str, Any] = {"tls": False}

each_protocol = pytest.mark.parametrize("protocol", MAIL_PROTOCOLS)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first round of checks is waited for, however busy the machine is."""
    monkeypatch.setattr("mailproxy.proxy.checks.checker._FIRST_ROUND_S", TIMEOUT_S)


def port_of(server: ScriptedServer) -> int:
    return int(server.address.rpartition(":")[2])


def trusting(harness: ProxyHarness, **more: Any) -> dict[str, Any]:
    """A check over TLS that trusts the harness's CA."""
    return {"tls": {"ca": str(harness.ca.pem), **more}}


def certified(harness: ProxyHarness, *names: str) -> ssl.SSLContext:
    return harness.ca.server_context(*(names or ("127.0.0.1",)))


async def refusing(harness: ProxyHarness) -> str:
    address: str = await harness.nursery.start(RefusingServer().serve)
    return address


async def unanswered(harness: ProxyHarness) -> str:
    address: str = await harness.nursery.start(UnansweredServer().serve)
    return address


# A connection, and no more


async def test_whoever_listens_passes_a_plain_check(harness: ProxyHarness) -> None:
    server = await harness.server()
    checked = await check_once(harness, server.address, type="tcp")
    assert (checked.status, checked.last_check) == ("UP", "Layer4 check passed")
    assert server_messages(harness) == []


@pytest.mark.parametrize("kind", ["tcp", "tls", "imap", "script"])
async def test_nobody_there(harness: ProxyHarness, kind: str) -> None:
    check: dict[str, Any] = {"steps": [{"expect": "OK"}]} if kind == "script" else {}
    checked = await check_once(harness, await refusing(harness), type=kind, **check)
    line = await wait_for_down(
        harness,
        'Layer4 connection problem, info: "Connection refused"',
        check="L4CON",
        info="Connection refused",
    )
    assert (checked.status, checked.state) == ("DOWN", "ready")
    assert checked.last_check == CONNECTION_REFUSED
    assert line["backend"] == "b"
    assert line["server"] == checked.name
    assert 0 <= line["check_ms"] < 5000


@pytest.mark.parametrize("kind", ["tcp", "tls", "imap"])
async def test_no_answer_at_all(harness: ProxyHarness, kind: str) -> None:
    checked = await check_once(harness, await unanswered(harness), type=kind, timeout=TIMEOUT)
    line = await wait_for_down(harness, "Layer4 timeout", check="L4TOUT", info="")
    assert checked.last_check == "Layer4 timeout"
    assert line["check_ms"] >= 150


async def test_the_backends_time_limit_holds_where_the_check_has_none(harness: ProxyHarness) -> None:
    await check_once(harness, await unanswered(harness), type="tcp", backend={"timeouts": {"check": TIMEOUT}})
    line = await wait_for_down(harness, "Layer4 timeout")
    assert line["check_ms"] >= 150


@pytest.mark.parametrize("kind", ["smtp", "lmtp"])
@pytest.mark.parametrize("hello", ["proxy.example.com", "[192.0.2.1]"])
async def test_the_name_that_a_check_says(harness: ProxyHarness, kind: str, hello: str) -> None:
    book = PLAYBOOKS[kind].replace("LO localhost", f"LO {hello}")
    assert hello in book
    server = await harness.server((ServerPlaybook(book),))
    checked = await check_once(harness, server.address, type=kind, hello=hello, **CLEAR)
    assert checked.last_check == PASSED


async def test_a_unix_socket(harness: ProxyHarness, tmp_path: Path) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),), bind=f"unix:{tmp_path}/imap.sock")
    checked = await check_once(harness, server.address, type="imap", **CLEAR)
    assert checked.last_check == PASSED


async def test_a_unix_socket_that_is_not_there(harness: ProxyHarness, tmp_path: Path) -> None:
    await check_once(harness, f"unix:{tmp_path}/imap.sock", type="tcp")
    await wait_for_down(
        harness, 'Layer4 connection problem, info: "No such file or directory"', check="L4CON"
    )


async def test_a_name_without_an_address(harness: ProxyHarness) -> None:
    await check_once(harness, "no-such-host.invalid:143", type="tcp")
    (line,) = await harness.events("server-down")
    assert (line["check"], line["status"]) == ("L4CON", "MAINT (resolution)")
    assert "no-such-host.invalid" in line["info"]


# TLS


async def test_a_server_that_makes_tls(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING), tls=certified(harness))
    checked = await check_once(harness, server.address, type="tls", **trusting(harness))
    assert (checked.status, checked.last_check) == ("UP", "Layer6 check passed")
    assert server_messages(harness) == []


async def test_a_certificate_that_nobody_trusts(harness: ProxyHarness, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = ThrowAwayCA(tmp_path / "other").server_context("127.0.0.1")
    server = await harness.server(collect(GREETING), tls=stranger)
    await check_once(harness, server.address, type="tls", **trusting(harness))
    info = "unable to get local issuer certificate"
    await wait_for_down(harness, f'Layer6 invalid response, info: "{info}"', check="L6RSP", info=info)


async def test_a_certificate_that_nobody_trusts_passes_where_none_is_verified(
    harness: ProxyHarness, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    stranger = ThrowAwayCA(tmp_path / "other").server_context("127.0.0.1")
    server = await harness.server(collect(GREETING), tls=stranger)
    checked = await check_once(harness, server.address, type="tls", tls={"verify": "none"})
    assert checked.last_check == "Layer6 check passed"


async def test_a_certificate_for_another_name(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING), tls=certified(harness, "elsewhere.example"))
    await check_once(harness, server.address, type="tls", **trusting(harness))
    (line,) = await harness.events("server-down")
    assert line["check"] == "L6RSP"
    assert line["info"].startswith("IP address mismatch, certificate is not valid for '127.0.0.1'")


async def test_the_server_is_asked_by_the_name_that_is_given(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING), tls=certified(harness, "imap.example.com"))
    checked = await check_once(
        harness, server.address, type="tls", **trusting(harness, server_name="imap.example.com")
    )
    assert checked.last_check == "Layer6 check passed"
    assert server.connections[0].server_name == "imap.example.com"


async def test_a_check_has_the_tls_of_sessions(harness: ProxyHarness) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),), tls=certified(harness))
    tls = {"tls": {"ca": str(harness.ca.pem)}}
    checked = await check_once(harness, server.address, protocol="imap", backend=tls)
    assert checked.last_check == PASSED


async def test_tls_with_a_server_that_speaks_in_clear(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    await check_once(harness, server.address, type="tls", **trusting(harness))
    info = "wrong version number"
    await wait_for_down(harness, f'Layer6 invalid response, info: "{info}"', check="L6RSP", info=info)


async def test_tls_with_a_server_that_closes(harness: ProxyHarness) -> None:
    server = await harness.server((Close(),))
    await check_once(harness, server.address, type="tls", **trusting(harness))
    (line,) = await harness.events("server-down")
    assert line["check"] == "L6RSP"


@pytest.mark.parametrize("kind", ["tls", "imap", "script"])
async def test_tls_that_is_never_answered(harness: ProxyHarness, kind: str) -> None:
    steps = {"steps": [{"expect": "OK"}]} if kind == "script" else {}
    server = await harness.server(stay_silent())
    check = {"type": kind, "timeout": TIMEOUT, **trusting(harness), **steps}
    await check_once(harness, server.address, **check)
    line = await wait_for_down(harness, "Layer6 timeout", check="L6TOUT", info="")
    assert line["check_ms"] >= 150


# Mail protocols

UNREADY: dict[str, tuple[bytes, str]] = {
    "imap": (b"* BYE Too many connections\r\n", 'code: 0, info: "BYE Too many connections"'),
    "pop3": (b"-ERR [SYS/TEMP] later\r\n", 'code: 0, info: "-ERR [SYS/TEMP] later"'),
    "smtp": (b"554 5.7.1 go away\r\n", 'code: 554, info: "554 5.7.1 go away"'),
    "submission": (b"421 4.3.2 busy\r\n", 'code: 421, info: "421 4.3.2 busy"'),
    "lmtp": (b"451 4.3.0 later\r\n", 'code: 451, info: "451 4.3.0 later"'),
    "sieve": (b'BYE "Too many connections"\r\n', 'code: 0, info: "BYE Too many connections"'),
}  # fmt: skip
NAMES = {"imap": "IMAP", "pop3": "POP3", "smtp": "SMTP", "submission": "SMTP", "lmtp": "LMTP", "sieve": "ManageSieve"}  # fmt: skip
RESETTING: dict[str, Playbook] = {
    "at once": (Reset(),),
    "when asked": (Send(GREETING), ExpectLine(), Reset()),
}
SECOND = {
    "imap": "the capabilities", "pop3": "the capabilities", "smtp": "the capabilities",
    "submission": "the capabilities", "lmtp": "the capabilities", "sieve": "the answer to the goodbye",
}  # fmt: skip


def first_answer(protocol: str) -> bytes:
    """What the server says before it is asked."""
    lines = PLAYBOOKS[protocol].strip().splitlines()
    count = next(number for number, line in enumerate(lines) if line.startswith("C: "))
    return "".join(line.removeprefix("S: ") + "\r\n" for line in lines[:count]).encode()


@each_protocol
@pytest.mark.parametrize("way", ["clear", "tls", "starttls"])
async def test_a_server_that_is_well(harness: ProxyHarness, protocol: str, way: str) -> None:
    """Submission has no type of its own: the backend's protocol tells."""
    context = certified(harness)
    server = await harness.server(
        (
            ServerPlaybook(
                STARTTLS_PLAYBOOKS[protocol] if way == "starttls" else PLAYBOOKS[protocol], context
            ),
        ),
        tls=context if way == "tls" else None,
    )
    check: dict[str, Any] = {} if protocol == "submission" else {"type": protocol}
    check |= {
        "clear": CLEAR,
        "tls": trusting(harness),
        "starttls": trusting(harness, mode="starttls"),
    }[way]
    checked = await check_once(harness, server.address, protocol=protocol, **check)
    assert (checked.status, checked.last_check) == ("UP", PASSED)
    assert server_messages(harness) == []
    assert server.accepted == 1


@each_protocol
async def test_a_server_that_refuses_is_quoted(harness: ProxyHarness, protocol: str) -> None:
    greeting, words = UNREADY[protocol]
    server = await harness.server((Send(greeting), Close()))
    await check_once(harness, server.address, protocol=protocol, **CLEAR)
    line = await wait_for_down(harness, f"Layer7 wrong status, {words}", check="L7STS")
    assert f'info: "{line["info"]}"' in words


@each_protocol
async def test_a_server_that_speaks_another_protocol(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((Send(b"SSH-2.0-OpenSSH_9.2\r\n"), Close()))
    await check_once(harness, server.address, protocol=protocol, **CLEAR)
    info = f"the greeting: this is not {NAMES[protocol]}: SSH-2.0-OpenSSH_9.2"
    await wait_for_down(harness, f'Layer7 invalid response, info: "{info}"', check="L7RSP", info=info)


@each_protocol
async def test_a_server_that_closes_without_a_word(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((Close(),))
    await check_once(harness, server.address, protocol=protocol, **CLEAR)
    info = "the connection was closed instead of the greeting"
    await wait_for_down(harness, f'Layer7 invalid response, info: "{info}"', check="L7RSP", info=info)


@each_protocol
async def test_a_server_that_never_greets(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server(stay_silent())
    await check_once(harness, server.address, protocol=protocol, timeout=TIMEOUT, **CLEAR)
    line = await wait_for_down(
        harness, 'Layer7 timeout, info: "the greeting"', check="L7TOUT", info="the greeting"
    )
    assert line["check_ms"] >= 150


@pytest.mark.parametrize("protocol", sorted(set(SECOND) - {"sieve"}))  # whose greeting says it all
async def test_a_server_that_stops_in_between(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((Send(first_answer(protocol)), Collect()))
    await check_once(harness, server.address, protocol=protocol, timeout=TIMEOUT, **CLEAR)
    await wait_for_down(
        harness, f'Layer7 timeout, info: "{SECOND[protocol]}"', check="L7TOUT", info=SECOND[protocol]
    )


async def test_a_server_that_dribbles_has_no_more_time_than_others(harness: ProxyHarness) -> None:
    server = await harness.server((SendSlowly(b"* OK " + b"x" * 1000, pause=0.02),))
    await check_once(harness, server.address, protocol="imap", timeout=TIMEOUT, **CLEAR)
    line = await wait_for_down(harness, 'Layer7 timeout, info: "the greeting"')
    assert 150 <= line["check_ms"] < 5000


@pytest.mark.parametrize("playbook", RESETTING.values(), ids=RESETTING)
async def test_a_connection_that_is_reset(harness: ProxyHarness, playbook: Playbook) -> None:
    server = await harness.server(playbook)
    await check_once(harness, server.address, protocol="imap", **CLEAR)
    info = "Connection reset by peer"
    await wait_for_down(harness, f'Layer4 connection problem, info: "{info}"', check="L4CON", info=info)


@pytest.mark.parametrize("playbook", RESETTING.values(), ids=RESETTING)
async def test_a_connection_that_is_reset_over_tls(harness: ProxyHarness, playbook: Playbook) -> None:
    server = await harness.server(playbook, tls=certified(harness))
    await check_once(harness, server.address, protocol="imap", **trusting(harness))
    (line,) = await harness.events("server-down")
    assert (line["check"], line["info"].lower()) == ("L4CON", "connection reset by peer")


async def test_over_tls_a_server_may_refuse_as_well(harness: ProxyHarness) -> None:
    server = await harness.server((Send(b"* BYE busy\r\n"), Close()), tls=certified(harness))
    await check_once(harness, server.address, protocol="imap", **trusting(harness))
    await wait_for_down(harness, 'Layer7 wrong status, code: 0, info: "BYE busy"')


async def test_what_a_server_says_does_not_break_the_log(harness: ProxyHarness) -> None:
    server = await harness.server((Send(b"* BYE \x1b[31m" + b"x" * 500 + b"\r\n"), Close()))
    await check_once(harness, server.address, protocol="imap", **CLEAR)
    info = ("BYE ?[31m" + "x" * 500)[:128]
    await wait_for_down(harness, f'Layer7 wrong status, code: 0, info: "{info}"', info=info)


# When it is known


@pytest.fixture
def endless_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """A goodbye has so much time that what comes behind it comes too late."""
    monkeypatch.setattr("mailproxy.proxy.checks.probe_connection._CLOSE_TIMEOUT_S", 3600.0)


SPEECHLESS: dict[str, Step] = {"resets": Reset(), "closes": Close(), "never answers": Stall()}


def up_to_the_goodbye(protocol: str) -> list[Step]:
    """What a server does until it has heard that."""
    book, _, goodbye = PLAYBOOKS[protocol].strip().rpartition("C: ")
    lines = [*book.splitlines(), f"C: {goodbye.splitlines()[0]}"]
    return [
        Send(f"{line[3:]}\r\n".encode()) if line.startswith("S: ") else ExpectLine(line[3:].encode())
        for line in lines
    ]


@each_protocol
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("step", SPEECHLESS.values(), ids=SPEECHLESS)
@pytest.mark.usefixtures("endless_goodbye")
async def test_a_server_that_is_well_need_not_answer_the_goodbye(
    harness: ProxyHarness, protocol: str, step: Step, tls: bool
) -> None:
    server = await harness.server(
        [*up_to_the_goodbye(protocol), step], tls=certified(harness) if tls else None
    )
    check = trusting(harness) if tls else CLEAR
    checked = await check_once(harness, server.address, protocol=protocol, timeout="1h", **check)
    assert (checked.status, checked.last_check) == ("UP", PASSED)
    await server.wait_for()
    assert server_messages(harness) == []


@each_protocol
@pytest.mark.usefixtures("endless_goodbye")
async def test_a_server_that_refuses_and_then_hangs_is_judged_at_once(
    harness: ProxyHarness, protocol: str
) -> None:
    greeting, words = UNREADY[protocol]
    server = await harness.server(never_read(greeting))
    checked = await check_once(harness, server.address, protocol=protocol, timeout="1h", **CLEAR)
    assert checked.status == "DOWN"
    line = await wait_for_down(harness, f"Layer7 wrong status, {words}", check="L7STS")
    assert line["check_ms"] < 5000


@pytest.mark.parametrize("kind", ["imap", "script"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.usefixtures("endless_goodbye")
async def test_the_goodbye_has_no_part_in_the_time_limit(harness: ProxyHarness, kind: str, tls: bool) -> None:
    server = await harness.server(never_read(GREETING), tls=certified(harness) if tls else None)
    check: dict[str, Any] = {"steps": [{"expect": "BYE"}]} if kind == "script" else {}
    check |= trusting(harness) if tls else CLEAR
    checked = await check_once(harness, server.address, protocol="imap", type=kind, timeout=TIMEOUT, **check)
    assert checked.status == "DOWN"
    owed = "at step 1 of the script (expect string 'BYE')" if kind == "script" else "the capabilities"
    line = await wait_for_down(harness, f'Layer7 timeout, info: "{owed}"', check="L7TOUT")
    assert 150 <= line["check_ms"] < 5000


# STARTTLS


async def test_starttls_that_is_not_offered(harness: ProxyHarness) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),))
    await check_once(harness, server.address, protocol="imap", **trusting(harness, mode="starttls"))
    info = "STARTTLS is not offered"
    await wait_for_down(harness, f'Layer7 invalid response, info: "{info}"', check="L7RSP", info=info)


async def test_starttls_with_a_certificate_for_another_name(harness: ProxyHarness) -> None:
    server = await harness.server(
        (ServerPlaybook(STARTTLS_PLAYBOOKS["imap"], certified(harness, "elsewhere.example")),)
    )
    await check_once(harness, server.address, protocol="imap", **trusting(harness, mode="starttls"))
    (line,) = await harness.events("server-down")
    assert line["check"] == "L6RSP"


async def test_starttls_that_leads_nowhere(harness: ProxyHarness) -> None:
    upgrade, _, _ = STARTTLS_PLAYBOOKS["imap"].partition("(TLS)")
    server = await harness.server((ServerPlaybook(upgrade),))
    check = {"timeout": TIMEOUT, **trusting(harness, mode="starttls")}
    await check_once(harness, server.address, protocol="imap", **check)
    await wait_for_down(harness, "Layer6 timeout", check="L6TOUT", info="")


async def test_nobody_can_slip_bytes_into_tls(harness: ProxyHarness) -> None:
    server = await harness.server(
        (
            Send(GREETING),
            ExpectLine(b"a1 CAPABILITY"),
            Send(b"* CAPABILITY IMAP4rev1 STARTTLS\r\na1 OK done\r\n"),
            ExpectLine(b"a2 STARTTLS"),
            Send(b"a2 OK now\r\n* CAPABILITY IMAP4rev1\r\n"),
            Collect(),
        )
    )
    await check_once(harness, server.address, protocol="imap", **trusting(harness, mode="starttls"))
    info = "plain bytes behind the answer to STARTTLS"
    await wait_for_down(harness, f'Layer7 invalid response, info: "{info}"', check="L7RSP", info=info)


# Scripts


async def scripted(
    harness: ProxyHarness, server: ScriptedServer, *steps: dict[str, Any], **check: Any
) -> str | None:
    """How a script ended."""
    checked = await check_once(harness, server.address, type="script", steps=list(steps), **check)
    return checked.last_check


MATCHING: dict[str, dict[str, Any]] = {
    "substring": {"expect": "OK [CAP"},
    "regular expression": {"expect_regex": r"^\* (OK|PREAUTH) \[CAPABILITY [^]]*\]"},
    "of any line": {"expect_regex": r"^second"},
    "hex": {"expect_hex": "2a 20 4f4b"},
}
MISSING: dict[str, tuple[dict[str, Any], str]] = {
    "substring": ({"expect": "+OK"}, "string '+OK'"),
    "regular expression": ({"expect_regex": "^OK"}, "regex '^OK'"),
    "hex": ({"expect_hex": "00 ff"}, "binary '00ff'"),
}
WELCOME = b"* OK [CAPABILITY IMAP4rev1] ready\r\nsecond line\r\n"


@pytest.mark.parametrize("step", MATCHING.values(), ids=MATCHING)
async def test_what_a_script_waits_for(harness: ProxyHarness, step: dict[str, Any]) -> None:
    server = await harness.server((SendSlowly(WELCOME, size=5), Collect()))
    assert await scripted(harness, server, step) == PASSED


@pytest.mark.parametrize(("step", "words"), MISSING.values(), ids=MISSING)
async def test_what_a_script_did_not_get(harness: ProxyHarness, step: dict[str, Any], words: str) -> None:
    server = await harness.server((Send(WELCOME), Close()))
    assert await scripted(harness, server, step) is not None
    info = f"did not match content ({words}) at step 1"
    await wait_for_down(harness, f'Layer7 invalid response, info: "{info}"', check="L7RSP", info=info)


@pytest.mark.parametrize(("step", "words"), MISSING.values(), ids=MISSING)
async def test_what_a_script_waited_for_in_vain(
    harness: ProxyHarness, step: dict[str, Any], words: str
) -> None:
    server = await harness.server((Send(WELCOME), Collect()))
    await scripted(harness, server, step, timeout=TIMEOUT)
    info = f"at step 1 of the script (expect {words})"
    await wait_for_down(harness, f'Layer7 timeout, info: "{info}"', check="L7TOUT", info=info)


async def test_what_a_script_does_not_want(harness: ProxyHarness) -> None:
    server = await harness.server(collect(b"* BYE\r\n"))
    await scripted(harness, server, {"expect": "BYE", "not": True})
    info = "matched unwanted content (string 'BYE') at step 1"
    await wait_for_down(harness, f'Layer7 invalid response, info: "{info}"', check="L7RSP", info=info)


async def test_what_a_script_does_not_want_and_does_not_get(harness: ProxyHarness) -> None:
    server = await harness.server((Send(WELCOME), Close()))
    assert await scripted(harness, server, {"expect": "BYE", "not": True}) == PASSED


async def test_not_for_as_long_as_the_step_says(harness: ProxyHarness) -> None:
    """A negated expectation with a time limit has held when that is over, and the script goes on."""
    server = await harness.server((Send(WELCOME), ExpectLine(b"NOOP"), Send(b"done\r\n"), Collect()))
    steps = ({"expect": "BYE", "not": True, "timeout": "30ms"}, {"send": "NOOP\r\n"}, {"expect": "done"})
    assert await scripted(harness, server, *steps) == PASSED


async def test_a_steps_own_time_limit(harness: ProxyHarness) -> None:
    server = await harness.server((Send(WELCOME), Collect()))
    steps = ({"expect": "OK"}, {"send": "NOOP\r\n"}, {"expect": "done", "timeout": "30ms"})
    await scripted(harness, server, *steps, timeout="1h")
    info = "at step 3 of the script (expect string 'done')"
    line = await wait_for_down(harness, f'Layer7 timeout, info: "{info}"', check="L7TOUT", info=info)
    assert 30 <= line["check_ms"] < 5000


async def test_an_empty_answer(harness: ProxyHarness) -> None:
    server = await harness.server((Close(),))
    await scripted(harness, server, {"expect": "OK"})
    await wait_for_down(
        harness, 'Layer7 invalid response, info: "got an empty response at step 1"', check="L7RSP"
    )


async def test_what_a_script_sends(harness: ProxyHarness) -> None:
    server = await harness.server((Send(WELCOME), ExpectLine(), Send(b"a OK done\r\n"), Collect()))
    steps = ({"expect": "* OK"}, {"send": "a NOOP ü"}, {"send_hex": "0D 0A"}, {"expect_regex": "^a OK"})
    assert await scripted(harness, server, *steps) == PASSED
    assert server.connections[0].received == "a NOOP ü\r\n".encode()


async def test_a_script_that_only_connects(harness: ProxyHarness) -> None:
    server = await harness.server(collect(WELCOME))
    assert await scripted(harness, server, {"connect": {}}) == "Layer4 check passed"


async def test_a_script_that_only_makes_tls(harness: ProxyHarness) -> None:
    server = await harness.server(collect(WELCOME), tls=certified(harness))
    assert await scripted(harness, server, {"connect": trusting(harness)}) == "Layer6 check passed"


async def test_a_script_of_several_connections(harness: ProxyHarness) -> None:
    """One for each connect, at its own port, in clear and over TLS; all of them must pass."""
    imap = await harness.server(collect(b"* OK\r\n"))
    secure = await harness.server(collect(b"* OK secure\r\n"), tls=certified(harness))
    sieve = await harness.server(collect(b"OK\r\n"))
    steps: tuple[dict[str, Any], ...] = (
        {"expect": "* OK"},
        {"connect": {"port": port_of(secure), **trusting(harness)}},
        {"expect": "secure"},
        {"connect": {"address": sieve.address}},
        {"expect_regex": "^OK"},
    )
    assert await scripted(harness, imap, *steps) == PASSED
    assert [server.accepted for server in (imap, secure, sieve)] == [1, 1, 1]


async def test_steps_are_counted_over_all_connections(harness: ProxyHarness) -> None:
    imap, sieve, last = [await harness.server(collect(b"* OK\r\n")) for _ in range(3)]
    steps: tuple[dict[str, Any], ...] = (
        {"connect": {}},
        {"expect": "OK"},
        {"connect": {"port": port_of(sieve)}},
        {"expect": "OK"},
        {"expect": "BYE", "timeout": "30ms"},
        {"connect": {"port": port_of(last)}},
    )
    await scripted(harness, imap, *steps)
    info = f"at step 5 of the script (expect string 'BYE') at port {port_of(sieve)}"
    await wait_for_down(harness, f'Layer7 timeout, info: "{info}"', info=info)
    assert last.accepted == 0, "after a failure nothing is tried any more"


async def test_a_script_whose_second_port_refuses(harness: ProxyHarness) -> None:
    imap = await harness.server(collect(b"* OK\r\n"))
    port = int((await refusing(harness)).rpartition(":")[2])
    await scripted(harness, imap, {"expect": "OK"}, {"connect": {"port": port}}, {"expect": "OK"})
    info = f"Connection refused at port {port}"
    await wait_for_down(harness, f'Layer4 connection problem, info: "{info}"', info=info)


async def test_all_connections_of_a_script_share_its_time(harness: ProxyHarness) -> None:
    """The second one has what the first has left."""
    one = await harness.server((SendSlowly(b"xxxxOK", pause=0.05), Collect()))
    two = await harness.server(stay_silent())
    steps = ({"expect": "OK"}, {"connect": {"port": port_of(two)}}, {"expect": "OK"})
    await scripted(harness, one, *steps, timeout="600ms")
    info = f"at step 3 of the script (expect string 'OK') at port {port_of(two)}"
    line = await wait_for_down(harness, f'Layer7 timeout, info: "{info}"', check="L7TOUT", info=info)
    assert 600 <= line["check_ms"] < 850


@frozen
class HoldUp:
    """Hold everything up for so long and then send this, so that nobody could be told meanwhile that his time is up."""

    seconds: float
    data: bytes

    async def play(self, connection: Connection) -> None:
        time.sleep(self.seconds)  # noqa: ASYNC251 - nothing else is to run
        await connection.stream.socket.send(self.data)


async def test_a_script_whose_time_is_spent_by_its_first_connection(harness: ProxyHarness) -> None:
    """The loop can be held up until what comes too late is there before anybody has looked at the clock."""
    one = await harness.server((ExpectLine(), HoldUp(0.3, b"OK\r\n"), Collect()))
    port = int((await unanswered(harness)).rpartition(":")[2])
    steps = ({"send": "NOOP\r\n"}, {"expect": "OK"}, {"connect": {"port": port}}, {"expect": "OK"})
    await scripted(harness, one, *steps, timeout=TIMEOUT)
    info = f"at step 2 of the script (expect string 'OK') at port {port_of(one)}"
    line = await wait_for_down(harness, f'Layer7 timeout, info: "{info}"', check="L7TOUT", info=info)
    assert line["check_ms"] >= 300
    assert not [line for line in harness.lines() if line["event"] == "check-fault"]


async def test_the_port_is_told_however_much_there_is_to_tell(harness: ProxyHarness) -> None:
    one = await harness.server(collect(GREETING))
    two = await harness.server((Send(WELCOME), Close()))
    wanted = "x" * 200
    await scripted(harness, one, {"expect": "OK"}, {"connect": {"port": port_of(two)}}, {"expect": wanted})
    place = f" at port {port_of(two)}"
    info = f"did not match content (string '{wanted}"[: 128 - len(place)] + place
    await wait_for_down(harness, f'Layer7 invalid response, info: "{info}"', check="L7RSP", info=info)


async def test_how_long_a_server_takes_to_close_is_not_the_checks_time(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.proxy.checks.probe_connection._CLOSE_TIMEOUT_S", 0.4)
    one, two = await harness.server(never_read(GREETING)), await harness.server(collect(GREETING))
    steps = ({"expect": "OK"}, {"connect": {"port": port_of(two)}}, {"expect": "OK"})
    assert await scripted(harness, one, *steps, timeout="300ms") == PASSED


# Where, and as whom


async def test_a_port_of_its_own(harness: ProxyHarness) -> None:
    status = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),))
    checked = await check_once(harness, await refusing(harness), type="imap", port=port_of(status), **CLEAR)
    assert checked.last_check == PASSED


@pytest.mark.parametrize("kind", ["tcp", "imap"])
async def test_an_address_of_its_own(harness: ProxyHarness, kind: str) -> None:
    """The server's port holds at the other address, unless that has one."""
    agent = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),), bind="127.0.0.2:0")
    server = f"127.0.0.1:{port_of(agent)}"
    checked = await check_once(harness, server, type=kind, address="127.0.0.2", **CLEAR)
    assert checked.status == "UP"
    assert agent.accepted == (0 if kind == "tcp" else 1)


async def test_an_address_that_is_a_name(harness: ProxyHarness) -> None:
    agent = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),))
    checked = await check_once(
        harness, await refusing(harness), type="imap", address=f"localhost:{port_of(agent)}", **CLEAR
    )
    assert checked.last_check == PASSED


async def test_an_address_that_is_a_unix_socket(harness: ProxyHarness, tmp_path: Path) -> None:
    agent = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),), bind=f"unix:{tmp_path}/agent.sock")
    checked = await check_once(harness, await refusing(harness), type="imap", address=agent.address, **CLEAR)
    assert checked.last_check == PASSED


async def test_an_address_whose_name_is_unknown(harness: ProxyHarness) -> None:
    server = await harness.server()
    await check_once(harness, server.address, type="tcp", address="no-such-host.invalid:143")
    (line,) = await harness.events("server-down")
    assert line["check"] == "L4CON"
    assert line["info"].startswith("no-such-host.invalid: ")


@pytest.mark.parametrize("missing", [False, True], ids=["all there", "one missing"])
async def test_a_server_without_a_port_is_checked_at_each_of_the_binds(
    harness: ProxyHarness, missing: bool
) -> None:
    """What clients may connect to must all be there."""
    servers = [
        await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),), bind="127.0.0.2:0") for _ in range(2)
    ]
    ports = [port_of(server) for server in servers]
    if missing:
        nobody: str = await harness.nursery.start(RefusingServer("127.0.0.2:0").serve)
        ports[1] = int(nobody.rpartition(":")[2])
    binds: dict[str, Any] = {
        "frontends": {"f": {"bind": [{"address": f"127.0.0.1:{port}"} for port in ports]}}
    }
    check = {"type": "imap", **CLEAR}
    proxy = await harness.proxy("127.0.0.2", **check_options(check, protocol="imap"), **binds)
    checked = proxy.backends["b"].servers["127.0.0.2"]
    refused = f'Layer4 connection problem, info: "Connection refused at port {ports[1]}"'
    assert checked.last_check == (refused if missing else PASSED)
    assert [server.accepted for server in servers] == ([1, 0] if missing else [1, 1])


LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"


async def introduced(
    harness: ProxyHarness, kind: str, *, tls: bool = False, bind: str = "127.0.0.1:0", **options: Any
) -> tuple[HeaderRecorder, str | None]:
    """A server that expects a PROXY header, and what a check of this kind came to."""
    server = HeaderRecorder(
        (ServerPlaybook(PLAYBOOKS["imap"]),),
        bind=bind,
        tls_after_header=certified(harness, "127.0.0.1", "::1") if tls else None,
    )
    await harness.nursery.start(server.serve)
    check = {"type": kind, **(trusting(harness) if tls else {} if kind == "tcp" else CLEAR), **options}
    backend = check.pop("backend", {})
    checked = await check_once(harness, server.address, protocol="imap", backend=backend, **check)
    return server, checked.last_check


@pytest.mark.parametrize("kind", ["tcp", "imap"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("version", ["v2", "v2-ssl", "v2-ssl-cn"])
async def test_a_check_speaks_for_nobody(harness: ProxyHarness, kind: str, tls: bool, version: str) -> None:
    """Version 2 has a word for it; it comes before all else, TLS included."""
    server, ended = await introduced(harness, kind, tls=tls, send_proxy=version)
    assert server.raw == [LOCAL]
    assert ended == (PASSED if kind == "imap" else "Layer6 check passed" if tls else "Layer4 check passed")


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
async def test_version_1_has_the_addresses_of_the_connection(harness: ProxyHarness, tls: bool) -> None:
    server, ended = await introduced(harness, "imap", tls=tls, send_proxy="v1")
    peer, own = (address.split(":") for address in (server.connections[0].peer, server.address))
    assert server.raw == [f"PROXY TCP4 {peer[0]} {own[0]} {peer[1]} {own[1]}\r\n".encode()]
    assert ended == PASSED


async def test_version_1_over_ipv6(harness: ProxyHarness) -> None:
    server, ended = await introduced(harness, "imap", send_proxy="v1", bind="[::1]:0")
    peer, own = (address.rpartition(":")[2] for address in (server.connections[0].peer, server.address))
    assert server.raw == [f"PROXY TCP6 ::1 ::1 {peer} {own}\r\n".encode()]
    assert ended == PASSED


async def test_version_1_over_a_unix_socket(harness: ProxyHarness, tmp_path: Path) -> None:
    server, ended = await introduced(harness, "imap", send_proxy="v1", bind=f"unix:{tmp_path}/imap.sock")
    assert server.raw == [b"PROXY UNKNOWN\r\n"]
    assert ended == PASSED


@pytest.mark.parametrize(("version", "raw"), [("v2", LOCAL), ("v1", b"PROXY TCP4 ")])
async def test_a_check_has_the_header_of_sessions(harness: ProxyHarness, version: str, raw: bytes) -> None:
    server, ended = await introduced(harness, "imap", backend={"send_proxy": version})
    assert server.raw[0].startswith(raw)
    assert ended == PASSED


async def test_no_header_although_sessions_have_one(harness: ProxyHarness) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),))
    check = {"type": "imap", "send_proxy": "none", **CLEAR}
    checked = await check_once(harness, server.address, backend={"send_proxy": "v2"}, **check)
    assert checked.last_check == PASSED


async def test_a_plain_check_has_no_header_of_sessions(harness: ProxyHarness) -> None:
    server = await harness.server((Stall(),))
    checked = await check_once(harness, server.address, type="tcp", backend={"send_proxy": "v2"})
    assert checked.last_check == "Layer4 check passed"
    assert server.accepted == 0


async def test_each_connection_of_a_script_has_its_own_header(harness: ProxyHarness) -> None:
    one, two = (HeaderRecorder(collect(b"* OK\r\n")) for _ in range(2))
    await harness.nursery.start(one.serve)
    await harness.nursery.start(two.serve)
    plain = await harness.server(collect(b"* OK\r\n"))
    steps = (
        {"expect": "OK"},
        {"connect": {"port": port_of(two), "send_proxy": "v1"}},
        {"expect": "OK"},
        {"connect": {"port": port_of(plain), "send_proxy": "none"}},
        {"expect": "OK"},
    )
    assert await scripted(harness, one, *steps, send_proxy="v2") == PASSED
    assert one.raw == [LOCAL]
    assert two.raw[0].startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")
    await plain.wait_ended()
    assert plain.connections[0].received == b""
