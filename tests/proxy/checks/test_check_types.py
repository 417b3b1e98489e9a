"""Each type of check, passed and failed, with HAProxy's words for the result."""

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
from tests.support.ports import free_port, free_ports
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
TIMEOUT = "150ms"  # timeout of checks that must reach it
CLEAR: dict[str, Any] = {"tls": False}

EACH_PROTOCOL = pytest.mark.parametrize("protocol", MAIL_PROTOCOLS)


@pytest.fixture(autouse=True)
def long_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the first round of checks even on a busy machine."""
    monkeypatch.setattr("mailproxy.proxy.checks.checker._FIRST_ROUND_S", TIMEOUT_S)


def port_of(server: ScriptedServer) -> int:
    return int(server.address.rpartition(":")[2])


def trust_ca(harness: ProxyHarness, **more: Any) -> dict[str, Any]:
    """Return a check over TLS that trusts the harness's CA."""
    return {"tls": {"ca": str(harness.ca.pem), **more}}


def server_context(harness: ProxyHarness, *names: str) -> ssl.SSLContext:
    return harness.ca.server_context(*(names or ("127.0.0.1",)))


async def refusing_address(harness: ProxyHarness) -> str:
    address: str = await harness.nursery.start(RefusingServer().serve)
    return address


async def unanswering_address(harness: ProxyHarness) -> str:
    address: str = await harness.nursery.start(UnansweredServer().serve)
    return address


# Connect only


async def test_listening_server_passes_tcp_check(harness: ProxyHarness) -> None:
    server = await harness.server()
    checked = await check_once(harness, server.address, type="tcp")
    assert (checked.status, checked.last_check) == ("UP", "Layer4 check passed")
    assert server_messages(harness) == []


@pytest.mark.parametrize("kind", ["tcp", "tls", "imap", "script"])
async def test_refused_connection_fails(harness: ProxyHarness, kind: str) -> None:
    check: dict[str, Any] = {"steps": [{"expect": "OK"}]} if kind == "script" else {}
    checked = await check_once(harness, await refusing_address(harness), type=kind, **check)
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
async def test_unanswered_connection_times_out(harness: ProxyHarness, kind: str) -> None:
    checked = await check_once(harness, await unanswering_address(harness), type=kind, timeout=TIMEOUT)
    line = await wait_for_down(harness, "Layer4 timeout", check="L4TOUT", info="")
    assert checked.last_check == "Layer4 timeout"
    assert line["check_ms"] >= 150


async def test_backend_timeout_is_default_of_check(harness: ProxyHarness) -> None:
    await check_once(
        harness, await unanswering_address(harness), type="tcp", backend={"timeouts": {"check": TIMEOUT}}
    )
    line = await wait_for_down(harness, "Layer4 timeout")
    assert line["check_ms"] >= 150


@pytest.mark.parametrize("kind", ["smtp", "lmtp"])
@pytest.mark.parametrize("hello", ["proxy.example.com", "[192.0.2.1]"])
async def test_hello_is_sent(harness: ProxyHarness, kind: str, hello: str) -> None:
    playbook = PLAYBOOKS[kind].replace("LO localhost", f"LO {hello}")
    assert hello in playbook
    server = await harness.server((ServerPlaybook(playbook),))
    checked = await check_once(harness, server.address, type=kind, hello=hello, **CLEAR)
    assert checked.last_check == PASSED


async def test_unix_socket_is_checked(harness: ProxyHarness, tmp_path: Path) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),), bind=f"unix:{tmp_path}/imap.sock")
    checked = await check_once(harness, server.address, type="imap", **CLEAR)
    assert checked.last_check == PASSED


async def test_missing_unix_socket_fails(harness: ProxyHarness, tmp_path: Path) -> None:
    await check_once(harness, f"unix:{tmp_path}/imap.sock", type="tcp")
    await wait_for_down(
        harness, 'Layer4 connection problem, info: "No such file or directory"', check="L4CON"
    )


async def test_name_without_address_fails(harness: ProxyHarness) -> None:
    await check_once(harness, "no-such-host.invalid:143", type="tcp")
    (line,) = await harness.events("server-down")
    assert (line["check"], line["status"]) == ("L4CON", "MAINT (resolution)")
    assert "no-such-host.invalid" in line["info"]


# TLS


async def test_tls_handshake_passes(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING), tls=server_context(harness))
    checked = await check_once(harness, server.address, type="tls", **trust_ca(harness))
    assert (checked.status, checked.last_check) == ("UP", "Layer6 check passed")
    assert server_messages(harness) == []


async def test_untrusted_certificate_fails(harness: ProxyHarness, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    untrusted = ThrowAwayCA(tmp_path / "other").server_context("127.0.0.1")
    server = await harness.server(collect(GREETING), tls=untrusted)
    await check_once(harness, server.address, type="tls", **trust_ca(harness))
    info = "unable to get local issuer certificate"
    await wait_for_down(harness, f'Layer6 invalid response, info: "{info}"', check="L6RSP", info=info)


async def test_untrusted_certificate_passes_without_verification(
    harness: ProxyHarness, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    untrusted = ThrowAwayCA(tmp_path / "other").server_context("127.0.0.1")
    server = await harness.server(collect(GREETING), tls=untrusted)
    checked = await check_once(harness, server.address, type="tls", tls={"verify": "none"})
    assert checked.last_check == "Layer6 check passed"


async def test_certificate_for_other_name_fails(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING), tls=server_context(harness, "elsewhere.example"))
    await check_once(harness, server.address, type="tls", **trust_ca(harness))
    (line,) = await harness.events("server-down")
    assert line["check"] == "L6RSP"
    assert line["info"].startswith("IP address mismatch, certificate is not valid for '127.0.0.1'")


async def test_server_name_is_sent(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING), tls=server_context(harness, "imap.example.com"))
    checked = await check_once(
        harness, server.address, type="tls", **trust_ca(harness, server_name="imap.example.com")
    )
    assert checked.last_check == "Layer6 check passed"
    assert server.connections[0].server_name == "imap.example.com"


async def test_check_inherits_tls_of_backend(harness: ProxyHarness) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),), tls=server_context(harness))
    tls = {"tls": {"ca": str(harness.ca.pem)}}
    checked = await check_once(harness, server.address, protocol="imap", backend=tls)
    assert checked.last_check == PASSED


async def test_tls_to_server_without_tls_fails(harness: ProxyHarness) -> None:
    server = await harness.server(collect(GREETING))
    await check_once(harness, server.address, type="tls", **trust_ca(harness))
    info = "wrong version number"
    await wait_for_down(harness, f'Layer6 invalid response, info: "{info}"', check="L6RSP", info=info)


async def test_tls_to_closing_server_fails(harness: ProxyHarness) -> None:
    server = await harness.server((Close(),))
    await check_once(harness, server.address, type="tls", **trust_ca(harness))
    (line,) = await harness.events("server-down")
    assert line["check"] == "L6RSP"


@pytest.mark.parametrize("kind", ["tls", "imap", "script"])
async def test_unanswered_tls_handshake_times_out(harness: ProxyHarness, kind: str) -> None:
    steps = {"steps": [{"expect": "OK"}]} if kind == "script" else {}
    server = await harness.server(stay_silent())
    check = {"type": kind, "timeout": TIMEOUT, **trust_ca(harness), **steps}
    await check_once(harness, server.address, **check)
    line = await wait_for_down(harness, "Layer6 timeout", check="L6TOUT", info="")
    assert line["check_ms"] >= 150


# Mail protocols

REFUSALS: dict[str, tuple[bytes, str]] = {
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
    "after first command": (Send(GREETING), ExpectLine(), Reset()),
}
SECOND_ANSWER = {
    "imap": "the capabilities", "pop3": "the capabilities", "smtp": "the capabilities",
    "submission": "the capabilities", "lmtp": "the capabilities", "sieve": "the answer to the logout",
}  # fmt: skip


def first_answer(protocol: str) -> bytes:
    """Return what the server sends before the first command."""
    lines = PLAYBOOKS[protocol].strip().splitlines()
    count = next(number for number, line in enumerate(lines) if line.startswith("C: "))
    return "".join(line.removeprefix("S: ") + "\r\n" for line in lines[:count]).encode()


@EACH_PROTOCOL
@pytest.mark.parametrize("variant", ["clear", "tls", "starttls"])
async def test_healthy_server_passes(harness: ProxyHarness, protocol: str, variant: str) -> None:
    """Submission has no type of its own: the check takes the backend's protocol."""
    context = server_context(harness)
    server = await harness.server(
        (
            ServerPlaybook(
                STARTTLS_PLAYBOOKS[protocol] if variant == "starttls" else PLAYBOOKS[protocol], context
            ),
        ),
        tls=context if variant == "tls" else None,
    )
    check: dict[str, Any] = {} if protocol == "submission" else {"type": protocol}
    check |= {
        "clear": CLEAR,
        "tls": trust_ca(harness),
        "starttls": trust_ca(harness, mode="starttls"),
    }[variant]
    checked = await check_once(harness, server.address, protocol=protocol, **check)
    assert (checked.status, checked.last_check) == ("UP", PASSED)
    assert server_messages(harness) == []
    assert server.accepted == 1


@EACH_PROTOCOL
async def test_refusal_is_quoted(harness: ProxyHarness, protocol: str) -> None:
    greeting, words = REFUSALS[protocol]
    server = await harness.server((Send(greeting), Close()))
    await check_once(harness, server.address, protocol=protocol, **CLEAR)
    line = await wait_for_down(harness, f"Layer7 wrong status, {words}", check="L7STS")
    assert f'info: "{line["info"]}"' in words


@EACH_PROTOCOL
async def test_other_protocol_fails(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((Send(b"SSH-2.0-OpenSSH_9.2\r\n"), Close()))
    await check_once(harness, server.address, protocol=protocol, **CLEAR)
    info = f"the greeting: this is not {NAMES[protocol]}: SSH-2.0-OpenSSH_9.2"
    await wait_for_down(harness, f'Layer7 invalid response, info: "{info}"', check="L7RSP", info=info)


@EACH_PROTOCOL
async def test_close_without_greeting_fails(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((Close(),))
    await check_once(harness, server.address, protocol=protocol, **CLEAR)
    info = "the connection was closed instead of the greeting"
    await wait_for_down(harness, f'Layer7 invalid response, info: "{info}"', check="L7RSP", info=info)


@EACH_PROTOCOL
async def test_missing_greeting_times_out(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server(stay_silent())
    await check_once(harness, server.address, protocol=protocol, timeout=TIMEOUT, **CLEAR)
    line = await wait_for_down(
        harness, 'Layer7 timeout, info: "the greeting"', check="L7TOUT", info="the greeting"
    )
    assert line["check_ms"] >= 150


# without ManageSieve, whose greeting has the capabilities
@pytest.mark.parametrize("protocol", sorted(set(SECOND_ANSWER) - {"sieve"}))
async def test_missing_second_answer_times_out(harness: ProxyHarness, protocol: str) -> None:
    server = await harness.server((Send(first_answer(protocol)), Collect()))
    await check_once(harness, server.address, protocol=protocol, timeout=TIMEOUT, **CLEAR)
    await wait_for_down(
        harness,
        f'Layer7 timeout, info: "{SECOND_ANSWER[protocol]}"',
        check="L7TOUT",
        info=SECOND_ANSWER[protocol],
    )


async def test_slow_bytes_do_not_extend_timeout(harness: ProxyHarness) -> None:
    server = await harness.server((SendSlowly(b"* OK " + b"x" * 1000, pause=0.02),))
    await check_once(harness, server.address, protocol="imap", timeout=TIMEOUT, **CLEAR)
    line = await wait_for_down(harness, 'Layer7 timeout, info: "the greeting"')
    assert 150 <= line["check_ms"] < 5000


@pytest.mark.parametrize("playbook", RESETTING.values(), ids=RESETTING)
async def test_reset_fails(harness: ProxyHarness, playbook: Playbook) -> None:
    server = await harness.server(playbook)
    await check_once(harness, server.address, protocol="imap", **CLEAR)
    info = "Connection reset by peer"
    await wait_for_down(harness, f'Layer4 connection problem, info: "{info}"', check="L4CON", info=info)


@pytest.mark.parametrize("playbook", RESETTING.values(), ids=RESETTING)
async def test_reset_over_tls_fails(harness: ProxyHarness, playbook: Playbook) -> None:
    server = await harness.server(playbook, tls=server_context(harness))
    await check_once(harness, server.address, protocol="imap", **trust_ca(harness))
    (line,) = await harness.events("server-down")
    assert (line["check"], line["info"].lower()) == ("L4CON", "connection reset by peer")


async def test_refusal_over_tls_is_quoted(harness: ProxyHarness) -> None:
    server = await harness.server((Send(b"* BYE busy\r\n"), Close()), tls=server_context(harness))
    await check_once(harness, server.address, protocol="imap", **trust_ca(harness))
    await wait_for_down(harness, 'Layer7 wrong status, code: 0, info: "BYE busy"')


async def test_quoted_answer_is_escaped_and_cut(harness: ProxyHarness) -> None:
    server = await harness.server((Send(b"* BYE \x1b[31m" + b"x" * 500 + b"\r\n"), Close()))
    await check_once(harness, server.address, protocol="imap", **CLEAR)
    info = ("BYE ?[31m" + "x" * 500)[:128]
    await wait_for_down(harness, f'Layer7 wrong status, code: 0, info: "{info}"', info=info)


# When the result is known


@pytest.fixture
def endless_close_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the close timeout to one hour, so that a result after the close would come too late."""
    monkeypatch.setattr("mailproxy.proxy.checks.probe_connection._CLOSE_TIMEOUT_S", 3600.0)


NO_GOODBYE: dict[str, Step] = {"resets": Reset(), "closes": Close(), "never answers": Stall()}


def steps_before_goodbye(protocol: str) -> list[Step]:
    """Return the server's steps until it has received the goodbye."""
    dialogue, _, goodbye = PLAYBOOKS[protocol].strip().rpartition("C: ")
    lines = [*dialogue.splitlines(), f"C: {goodbye.splitlines()[0]}"]
    return [
        Send(f"{line[3:]}\r\n".encode()) if line.startswith("S: ") else ExpectLine(line[3:].encode())
        for line in lines
    ]


@EACH_PROTOCOL
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("step", NO_GOODBYE.values(), ids=NO_GOODBYE)
@pytest.mark.usefixtures("endless_close_timeout")
async def test_healthy_server_need_not_answer_goodbye(
    harness: ProxyHarness, protocol: str, step: Step, tls: bool
) -> None:
    server = await harness.server(
        [*steps_before_goodbye(protocol), step], tls=server_context(harness) if tls else None
    )
    check = trust_ca(harness) if tls else CLEAR
    checked = await check_once(harness, server.address, protocol=protocol, timeout="1h", **check)
    assert (checked.status, checked.last_check) == ("UP", PASSED)
    await server.wait_for()
    assert server_messages(harness) == []


@EACH_PROTOCOL
@pytest.mark.usefixtures("endless_close_timeout")
async def test_refusal_counts_at_once_if_server_hangs(harness: ProxyHarness, protocol: str) -> None:
    greeting, words = REFUSALS[protocol]
    server = await harness.server(never_read(greeting))
    checked = await check_once(harness, server.address, protocol=protocol, timeout="1h", **CLEAR)
    assert checked.status == "DOWN"
    line = await wait_for_down(harness, f"Layer7 wrong status, {words}", check="L7STS")
    assert line["check_ms"] < 5000


@pytest.mark.parametrize("kind", ["imap", "script"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.usefixtures("endless_close_timeout")
async def test_goodbye_does_not_count_towards_timeout(harness: ProxyHarness, kind: str, tls: bool) -> None:
    server = await harness.server(never_read(GREETING), tls=server_context(harness) if tls else None)
    check: dict[str, Any] = {"steps": [{"expect": "BYE"}]} if kind == "script" else {}
    check |= trust_ca(harness) if tls else CLEAR
    checked = await check_once(harness, server.address, protocol="imap", type=kind, timeout=TIMEOUT, **check)
    assert checked.status == "DOWN"
    expected = "at step 1 of the script (expect string 'BYE')" if kind == "script" else "the capabilities"
    line = await wait_for_down(harness, f'Layer7 timeout, info: "{expected}"', check="L7TOUT")
    assert 150 <= line["check_ms"] < 5000


# STARTTLS


async def test_missing_starttls_fails(harness: ProxyHarness) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),))
    await check_once(harness, server.address, protocol="imap", **trust_ca(harness, mode="starttls"))
    info = "STARTTLS is not offered"
    await wait_for_down(harness, f'Layer7 invalid response, info: "{info}"', check="L7RSP", info=info)


async def test_starttls_with_certificate_for_other_name_fails(harness: ProxyHarness) -> None:
    server = await harness.server(
        (ServerPlaybook(STARTTLS_PLAYBOOKS["imap"], server_context(harness, "elsewhere.example")),)
    )
    await check_once(harness, server.address, protocol="imap", **trust_ca(harness, mode="starttls"))
    (line,) = await harness.events("server-down")
    assert line["check"] == "L6RSP"


async def test_unanswered_handshake_after_starttls_times_out(harness: ProxyHarness) -> None:
    upgrade, _, _ = STARTTLS_PLAYBOOKS["imap"].partition("(TLS)")
    server = await harness.server((ServerPlaybook(upgrade),))
    check = {"timeout": TIMEOUT, **trust_ca(harness, mode="starttls")}
    await check_once(harness, server.address, protocol="imap", **check)
    await wait_for_down(harness, "Layer6 timeout", check="L6TOUT", info="")


async def test_data_injected_after_starttls_fails(harness: ProxyHarness) -> None:
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
    await check_once(harness, server.address, protocol="imap", **trust_ca(harness, mode="starttls"))
    info = "plain bytes behind the answer to STARTTLS"
    await wait_for_down(harness, f'Layer7 invalid response, info: "{info}"', check="L7RSP", info=info)


# Scripts


async def run_script(
    harness: ProxyHarness, server: ScriptedServer, *steps: dict[str, Any], **check: Any
) -> str | None:
    """Return the result of a script."""
    checked = await check_once(harness, server.address, type="script", steps=list(steps), **check)
    return checked.last_check


MATCHING: dict[str, dict[str, Any]] = {
    "substring": {"expect": "OK [CAP"},
    "regular expression": {"expect_regex": r"^\* (OK|PREAUTH) \[CAPABILITY [^]]*\]"},
    "regular expression of any line": {"expect_regex": r"^second"},
    "hex": {"expect_hex": "2a 20 4f4b"},
}
MISSING: dict[str, tuple[dict[str, Any], str]] = {
    "substring": ({"expect": "+OK"}, "string '+OK'"),
    "regular expression": ({"expect_regex": "^OK"}, "regex '^OK'"),
    "hex": ({"expect_hex": "00 ff"}, "binary '00ff'"),
}
WELCOME = b"* OK [CAPABILITY IMAP4rev1] ready\r\nsecond line\r\n"


@pytest.mark.parametrize("step", MATCHING.values(), ids=MATCHING)
async def test_expected_data_passes(harness: ProxyHarness, step: dict[str, Any]) -> None:
    server = await harness.server((SendSlowly(WELCOME, size=5), Collect()))
    assert await run_script(harness, server, step) == PASSED


@pytest.mark.parametrize(("step", "words"), MISSING.values(), ids=MISSING)
async def test_missing_data_before_close_fails(
    harness: ProxyHarness, step: dict[str, Any], words: str
) -> None:
    server = await harness.server((Send(WELCOME), Close()))
    assert await run_script(harness, server, step) is not None
    info = f"did not match content ({words}) at step 1"
    await wait_for_down(harness, f'Layer7 invalid response, info: "{info}"', check="L7RSP", info=info)


@pytest.mark.parametrize(("step", "words"), MISSING.values(), ids=MISSING)
async def test_missing_data_times_out(harness: ProxyHarness, step: dict[str, Any], words: str) -> None:
    server = await harness.server((Send(WELCOME), Collect()))
    await run_script(harness, server, step, timeout=TIMEOUT)
    info = f"at step 1 of the script (expect {words})"
    await wait_for_down(harness, f'Layer7 timeout, info: "{info}"', check="L7TOUT", info=info)


async def test_unwanted_data_fails(harness: ProxyHarness) -> None:
    server = await harness.server(collect(b"* BYE\r\n"))
    await run_script(harness, server, {"expect": "BYE", "not": True})
    info = "matched unwanted content (string 'BYE') at step 1"
    await wait_for_down(harness, f'Layer7 invalid response, info: "{info}"', check="L7RSP", info=info)


async def test_absent_unwanted_data_passes(harness: ProxyHarness) -> None:
    server = await harness.server((Send(WELCOME), Close()))
    assert await run_script(harness, server, {"expect": "BYE", "not": True}) == PASSED


async def test_negated_step_passes_after_timeout(harness: ProxyHarness) -> None:
    """A negated expectation with a timeout holds when the timeout is over, and the script continues."""
    server = await harness.server((Send(WELCOME), ExpectLine(b"NOOP"), Send(b"done\r\n"), Collect()))
    steps = ({"expect": "BYE", "not": True, "timeout": "30ms"}, {"send": "NOOP\r\n"}, {"expect": "done"})
    assert await run_script(harness, server, *steps) == PASSED


async def test_step_has_own_timeout(harness: ProxyHarness) -> None:
    server = await harness.server((Send(WELCOME), Collect()))
    steps = ({"expect": "OK"}, {"send": "NOOP\r\n"}, {"expect": "done", "timeout": "30ms"})
    await run_script(harness, server, *steps, timeout="1h")
    info = "at step 3 of the script (expect string 'done')"
    line = await wait_for_down(harness, f'Layer7 timeout, info: "{info}"', check="L7TOUT", info=info)
    assert 30 <= line["check_ms"] < 5000


async def test_empty_response_fails(harness: ProxyHarness) -> None:
    server = await harness.server((Close(),))
    await run_script(harness, server, {"expect": "OK"})
    await wait_for_down(
        harness, 'Layer7 invalid response, info: "got an empty response at step 1"', check="L7RSP"
    )


async def test_script_sends_text_and_bytes(harness: ProxyHarness) -> None:
    server = await harness.server((Send(WELCOME), ExpectLine(), Send(b"a OK done\r\n"), Collect()))
    steps = ({"expect": "* OK"}, {"send": "a NOOP ü"}, {"send_hex": "0D 0A"}, {"expect_regex": "^a OK"})
    assert await run_script(harness, server, *steps) == PASSED
    assert server.connections[0].received == "a NOOP ü\r\n".encode()


async def test_script_can_only_connect(harness: ProxyHarness) -> None:
    server = await harness.server(collect(WELCOME))
    assert await run_script(harness, server, {"connect": {}}) == "Layer4 check passed"


async def test_script_can_only_make_handshake(harness: ProxyHarness) -> None:
    server = await harness.server(collect(WELCOME), tls=server_context(harness))
    assert await run_script(harness, server, {"connect": trust_ca(harness)}) == "Layer6 check passed"


async def test_script_with_several_connections(harness: ProxyHarness) -> None:
    """One for each ``connect``, at its own port, in clear text and over TLS. All of them must pass."""
    imap = await harness.server(collect(b"* OK\r\n"))
    secure = await harness.server(collect(b"* OK secure\r\n"), tls=server_context(harness))
    sieve = await harness.server(collect(b"OK\r\n"))
    steps: tuple[dict[str, Any], ...] = (
        {"expect": "* OK"},
        {"connect": {"port": port_of(secure), **trust_ca(harness)}},
        {"expect": "secure"},
        {"connect": {"address": sieve.address}},
        {"expect_regex": "^OK"},
    )
    assert await run_script(harness, imap, *steps) == PASSED
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
    await run_script(harness, imap, *steps)
    info = f"at step 5 of the script (expect string 'BYE') at port {port_of(sieve)}"
    await wait_for_down(harness, f'Layer7 timeout, info: "{info}"', info=info)
    assert last.accepted == 0, "nothing is tried after a failure"


async def test_refusing_second_port_fails_script(harness: ProxyHarness) -> None:
    imap = await harness.server(collect(b"* OK\r\n"))
    port = int((await refusing_address(harness)).rpartition(":")[2])
    await run_script(harness, imap, {"expect": "OK"}, {"connect": {"port": port}}, {"expect": "OK"})
    info = f"Connection refused at port {port}"
    await wait_for_down(harness, f'Layer4 connection problem, info: "{info}"', info=info)


async def test_connections_of_script_share_timeout(harness: ProxyHarness) -> None:
    """The second connection has the time that the first has left."""
    first = await harness.server((SendSlowly(b"xxxxOK", pause=0.05), Collect()))
    second = await harness.server(stay_silent())
    steps = ({"expect": "OK"}, {"connect": {"port": port_of(second)}}, {"expect": "OK"})
    await run_script(harness, first, *steps, timeout="600ms")
    info = f"at step 3 of the script (expect string 'OK') at port {port_of(second)}"
    line = await wait_for_down(harness, f'Layer7 timeout, info: "{info}"', check="L7TOUT", info=info)
    assert 600 <= line["check_ms"] < 850


@frozen
class BlockLoop:
    """Block the event loop and then send, so that no timeout can fire meanwhile."""

    seconds: float
    data: bytes

    async def play(self, connection: Connection) -> None:
        time.sleep(self.seconds)  # noqa: ASYNC251 - nothing else may run
        await connection.stream.socket.send(self.data)


async def test_script_timeout_spent_by_first_connection(harness: ProxyHarness) -> None:
    """If the event loop is blocked, an answer that is too late can arrive before the timeout is noticed."""
    first = await harness.server((ExpectLine(), BlockLoop(0.3, b"OK\r\n"), Collect()))
    port = int((await unanswering_address(harness)).rpartition(":")[2])
    steps = ({"send": "NOOP\r\n"}, {"expect": "OK"}, {"connect": {"port": port}}, {"expect": "OK"})
    await run_script(harness, first, *steps, timeout=TIMEOUT)
    info = f"at step 2 of the script (expect string 'OK') at port {port_of(first)}"
    line = await wait_for_down(harness, f'Layer7 timeout, info: "{info}"', check="L7TOUT", info=info)
    assert line["check_ms"] >= 300
    assert not [line for line in harness.lines() if line["event"] == "check-fault"]


async def test_long_message_still_names_port(harness: ProxyHarness) -> None:
    first = await harness.server(collect(GREETING))
    second = await harness.server((Send(WELCOME), Close()))
    expected = "x" * 200
    await run_script(
        harness, first, {"expect": "OK"}, {"connect": {"port": port_of(second)}}, {"expect": expected}
    )
    suffix = f" at port {port_of(second)}"
    info = f"did not match content (string '{expected}"[: 128 - len(suffix)] + suffix
    await wait_for_down(harness, f'Layer7 invalid response, info: "{info}"', check="L7RSP", info=info)


async def test_slow_close_does_not_count_towards_timeout(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.proxy.checks.probe_connection._CLOSE_TIMEOUT_S", 0.4)
    first, second = await harness.server(never_read(GREETING)), await harness.server(collect(GREETING))
    steps = ({"expect": "OK"}, {"connect": {"port": port_of(second)}}, {"expect": "OK"})
    assert await run_script(harness, first, *steps, timeout="300ms") == PASSED


# Addresses and headers


async def test_check_has_own_port(harness: ProxyHarness) -> None:
    other_port = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),))
    checked = await check_once(
        harness, await refusing_address(harness), type="imap", port=port_of(other_port), **CLEAR
    )
    assert checked.last_check == PASSED


@pytest.mark.parametrize("kind", ["tcp", "imap"])
async def test_check_has_own_address(harness: ProxyHarness, kind: str) -> None:
    """The server's port is used at the other address, unless that has a port."""
    agent = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),), bind="127.0.0.2:0")
    server = f"127.0.0.1:{port_of(agent)}"
    checked = await check_once(harness, server, type=kind, address="127.0.0.2", **CLEAR)
    assert checked.status == "UP"
    assert agent.accepted == (0 if kind == "tcp" else 1)


async def test_check_address_can_be_name(harness: ProxyHarness) -> None:
    agent = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),))
    checked = await check_once(
        harness, await refusing_address(harness), type="imap", address=f"localhost:{port_of(agent)}", **CLEAR
    )
    assert checked.last_check == PASSED


async def test_check_address_can_be_unix_socket(harness: ProxyHarness, tmp_path: Path) -> None:
    agent = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),), bind=f"unix:{tmp_path}/agent.sock")
    checked = await check_once(
        harness, await refusing_address(harness), type="imap", address=agent.address, **CLEAR
    )
    assert checked.last_check == PASSED


async def test_unknown_name_of_check_address_fails(harness: ProxyHarness) -> None:
    server = await harness.server()
    await check_once(harness, server.address, type="tcp", address="no-such-host.invalid:143")
    (line,) = await harness.events("server-down")
    assert line["check"] == "L4CON"
    assert line["info"].startswith("no-such-host.invalid: ")


@pytest.mark.parametrize("missing", [False, True], ids=["all reachable", "one missing"])
async def test_server_without_port_is_checked_at_each_bind(harness: ProxyHarness, missing: bool) -> None:
    """Each port that clients may connect to must be reachable."""
    servers = [
        await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),), bind=f"127.0.0.2:{port}")
        for port in free_ports(2, ("127.0.0.1", "127.0.0.2"))  # the proxy has the same ports at 127.0.0.1
    ]
    ports = [port_of(server) for server in servers]
    if missing:
        port = free_port(("127.0.0.1", "127.0.0.2"))
        refusing: str = await harness.nursery.start(RefusingServer(f"127.0.0.2:{port}").serve)
        ports[1] = int(refusing.rpartition(":")[2])
    binds: dict[str, Any] = {
        "frontends": {"f": {"bind": [{"address": f"127.0.0.1:{port}"} for port in ports]}}
    }
    check = {"type": "imap", **CLEAR}
    proxy = await harness.proxy("127.0.0.2", **check_options(check, protocol="imap"), **binds)
    checked = proxy.backends["b"].servers["127.0.0.2"]
    message = f'Layer4 connection problem, info: "Connection refused at port {ports[1]}"'
    assert checked.last_check == (message if missing else PASSED)
    assert [server.accepted for server in servers] == ([1, 0] if missing else [1, 1])


LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"


async def check_with_header(
    harness: ProxyHarness, kind: str, *, tls: bool = False, bind: str = "127.0.0.1:0", **options: Any
) -> tuple[HeaderRecorder, str | None]:
    """Run a check against a server that expects a PROXY header. Return the server and the result."""
    server = HeaderRecorder(
        (ServerPlaybook(PLAYBOOKS["imap"]),),
        bind=bind,
        tls_after_header=server_context(harness, "127.0.0.1", "::1") if tls else None,
    )
    await harness.nursery.start(server.serve)
    check = {"type": kind, **(trust_ca(harness) if tls else {} if kind == "tcp" else CLEAR), **options}
    backend = check.pop("backend", {})
    checked = await check_once(harness, server.address, protocol="imap", backend=backend, **check)
    return server, checked.last_check


@pytest.mark.parametrize("kind", ["tcp", "imap"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("version", ["v2", "v2-ssl", "v2-ssl-cn"])
async def test_check_sends_local_header(harness: ProxyHarness, kind: str, tls: bool, version: str) -> None:
    """LOCAL of version 2 says so. It comes before everything else, also before TLS."""
    server, result = await check_with_header(harness, kind, tls=tls, send_proxy=version)
    assert server.raw == [LOCAL]
    assert result == (PASSED if kind == "imap" else "Layer6 check passed" if tls else "Layer4 check passed")


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
async def test_version_1_has_addresses_of_connection(harness: ProxyHarness, tls: bool) -> None:
    server, result = await check_with_header(harness, "imap", tls=tls, send_proxy="v1")
    client_end, server_end = (address.split(":") for address in (server.connections[0].peer, server.address))
    assert server.raw == [
        f"PROXY TCP4 {client_end[0]} {server_end[0]} {client_end[1]} {server_end[1]}\r\n".encode()
    ]
    assert result == PASSED


async def test_version_1_over_ipv6(harness: ProxyHarness) -> None:
    server, result = await check_with_header(harness, "imap", send_proxy="v1", bind="[::1]:0")
    client_end, server_end = (
        address.rpartition(":")[2] for address in (server.connections[0].peer, server.address)
    )
    assert server.raw == [f"PROXY TCP6 ::1 ::1 {client_end} {server_end}\r\n".encode()]
    assert result == PASSED


async def test_version_1_over_unix_socket(harness: ProxyHarness, tmp_path: Path) -> None:
    server, result = await check_with_header(
        harness, "imap", send_proxy="v1", bind=f"unix:{tmp_path}/imap.sock"
    )
    assert server.raw == [b"PROXY UNKNOWN\r\n"]
    assert result == PASSED


@pytest.mark.parametrize(("version", "raw"), [("v2", LOCAL), ("v1", b"PROXY TCP4 ")])
async def test_check_inherits_header_of_backend(harness: ProxyHarness, version: str, raw: bytes) -> None:
    server, result = await check_with_header(harness, "imap", backend={"send_proxy": version})
    assert server.raw[0].startswith(raw)
    assert result == PASSED


async def test_check_can_omit_header_of_backend(harness: ProxyHarness) -> None:
    server = await harness.server((ServerPlaybook(PLAYBOOKS["imap"]),))
    check = {"type": "imap", "send_proxy": "none", **CLEAR}
    checked = await check_once(harness, server.address, backend={"send_proxy": "v2"}, **check)
    assert checked.last_check == PASSED


async def test_tcp_check_does_not_inherit_header(harness: ProxyHarness) -> None:
    server = await harness.server((Stall(),))
    checked = await check_once(harness, server.address, type="tcp", backend={"send_proxy": "v2"})
    assert checked.last_check == "Layer4 check passed"
    assert server.accepted == 0


async def test_each_connection_of_script_has_own_header(harness: ProxyHarness) -> None:
    first, second = (HeaderRecorder(collect(b"* OK\r\n")) for _ in range(2))
    await harness.nursery.start(first.serve)
    await harness.nursery.start(second.serve)
    without_header = await harness.server(collect(b"* OK\r\n"))
    steps = (
        {"expect": "OK"},
        {"connect": {"port": port_of(second), "send_proxy": "v1"}},
        {"expect": "OK"},
        {"connect": {"port": port_of(without_header), "send_proxy": "none"}},
        {"expect": "OK"},
    )
    assert await run_script(harness, first, *steps, send_proxy="v2") == PASSED
    assert first.raw == [LOCAL]
    assert second.raw[0].startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")
    await without_header.wait_ended()
    assert without_header.connections[0].received == b""
