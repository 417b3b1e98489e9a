"""The life cycle with an authority in Python: orders, failures, renewals, commands."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import trio

from mailproxy.acme import commands
from mailproxy.acme.authority import FAILURES, Authority, read_entry
from mailproxy.acme.errors import AcmeError
from mailproxy.acme.keys import make_key
from mailproxy.acme.schedule import Record
from mailproxy.acme.service import AcmeService
from mailproxy.certificates.loader import load_certificates
from mailproxy.config import Config
from mailproxy.config.acme_plan import AcmePlan, ManagedCertificate
from mailproxy.log import Log, Output, open_target
from mailproxy.testing import ThrowAwayCA
from tests.support.acme.fake import FakeAuthority, Reply, problem
from tests.support.smallest_config import smallest_config
from tests.support.timeouts import TIMEOUT_S, wait_until

NAME = "imap.example.com"
Command = Callable[[list[ManagedCertificate], Callable[[str], None], Callable[[str], None]], Awaitable[bool]]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailproxy.acme.order._FIRST_POLL_S", 0.02)


@pytest.fixture
def authority(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> Iterator[FakeAuthority]:
    with FakeAuthority(throw_away_ca, tmp_path, tmp_path / "acme" / "challenges") as authority:
        yield authority


def config_of(authority: FakeAuthority, more: str = "") -> Config:
    return smallest_config(f"""
acme.le = {{ directory = "{authority.directory}", ca = "{authority.ca.pem}", terms_agreed = true, storage = "{authority.folder}/acme"{more} }}
frontends.imap.bind = [{{ address = "127.0.0.1:1993", mode = "tls" }}]
frontends.imap.tls = {{ acme = "le", names = ["{NAME}"] }}
""")


def only(config: Config) -> ManagedCertificate:
    (certificate,) = AcmePlan(config).certificates
    return certificate


async def obtain(config: Config, *, is_forced: bool = False) -> bool:
    """Obtain the certificate as the service does. Return whether there was an order."""
    certificate = only(config)
    with trio.fail_after(TIMEOUT_S):
        return await Authority(certificate.acme).obtain(certificate, is_forced=is_forced) is not None


async def test_service_obtains_and_reports(authority: FakeAuthority, tmp_path: Path) -> None:
    config = config_of(authority)
    log = Log([Output(open_target(str(tmp_path / "log"), None), "json")])
    stored: list[int] = []
    service = AcmeService(lambda: config, http={}, log=log, on_stored=lambda: stored.append(1))
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            nursery.start_soon(service.run)
            await wait_until(lambda: stored)
            await wait_until(lambda: "acme-obtained" in (tmp_path / "log").read_text())
            nursery.cancel_scope.cancel()
        await log.finish()
    (status,) = service.statuses
    assert (status.name, status.authority, status.last_result, status.failures) == (NAME, "le", "ok", 0)
    assert status.expiry is not None
    assert status.next_attempt == pytest.approx(status.expiry - 30 * 86400, abs=2)
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [event["event"] for event in events] == ["acme-started", "acme-obtained"]
    assert events[1]["names"] == [NAME]


async def test_service_logs_failure_and_goes_on(authority: FakeAuthority, tmp_path: Path) -> None:
    authority.faults["neworder"] = [problem(429, "rateLimited", "too many", Retry_After="500")]
    config = config_of(authority)
    log = Log([Output(open_target(str(tmp_path / "log"), None), "json")])
    service = AcmeService(lambda: config, http={}, log=log, on_stored=lambda: None)
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            nursery.start_soon(service.run)
            await wait_until(lambda: "acme-failed" in (tmp_path / "log").read_text())
            nursery.cancel_scope.cancel()
        await log.finish()
    record = read_entry(only(config)).record
    assert record.last_attempt is not None
    assert record.not_before >= record.last_attempt + 500
    assert record.last_result == "the authority refuses: too many (rateLimited)"


async def test_certificate_that_is_not_due_is_not_ordered(authority: FakeAuthority) -> None:
    config = config_of(authority)
    assert await obtain(config)
    assert not await obtain(config)
    assert await obtain(config, is_forced=True)
    assert len(authority.orders) == 2


async def test_account_is_made_once(authority: FakeAuthority) -> None:
    for _ in range(3):
        await obtain(config_of(authority), is_forced=True)
    assert authority.paths.count("/account") == 1
    await obtain(config_of(authority, ', contact = ["mailto:a@example.com"]'), is_forced=True)
    assert authority.paths.count("/account/1") == 1


async def test_lost_account_is_registered_again(authority: FakeAuthority) -> None:
    await obtain(config_of(authority))
    authority.faults["neworder"] = [problem(400, "accountDoesNotExist")]
    assert await obtain(config_of(authority), is_forced=True)
    assert authority.paths.count("/account") == 2


async def test_other_directory_obtains_again(authority: FakeAuthority) -> None:
    await obtain(config_of(authority))
    changed = smallest_config(f"""
acme.le = {{ directory = "{authority.directory}?other", ca = "{authority.ca.pem}", terms_agreed = true, storage = "{authority.folder}/acme" }}
frontends.imap.bind = [{{ address = "127.0.0.1:1993", mode = "tls" }}]
frontends.imap.tls = {{ acme = "le", names = ["{NAME}"] }}
""")
    assert read_entry(only(changed)).due_at() == 0.0
    assert list((authority.folder / "acme").glob("account*.json"))


@pytest.mark.parametrize(
    ("path", "reply", "reason"),
    [
        ("directory", (200, {}, {}), "is no ACME directory"),
        ("directory", (200, b"<html>", {}), "cannot be used"),
        ("directory", (500, b"", {}), "HTTP status 500"),
        ("directory", (200, b"x" * (2 << 20), {}), "has more than 1048576 bytes"),
        ("account", (201, {}, {}), "no URL of the account"),
        ("neworder", (201, {}, {}), "no URL of the order"),
        ("neworder", problem(400, "rejectedIdentifier", "a\nb"), r"the authority refuses: a b \(rejectedIdentifier\)"),
        ("authz", (200, {"status": "pending", "identifier": {"type": "dns", "value": "../x"}}, {}), "was not ordered"),
        ("authz", (200, {"status": "pending", "identifier": {"type": "dns", "value": NAME}}, {}), "does not offer"),
        (
            "authz",
            (200, {"status": "pending", "identifier": {"value": NAME}, "challenges": [{"type": "tls-alpn-01", "token": "../.."}]}, {}),
            "which is none",
        ),
        ("authz", (200, {"status": "deactivated", "identifier": {"value": NAME}}, {}), "cannot validate imap"),
        ("order", (200, {"status": "invalid", "error": {"detail": "nope"}}, {}), "nope"),
        ("finalize", problem(403, "badCSR", "bad"), "bad"),
        ("cert", (200, b"nonsense", {}), "has sent no certificate"),
    ],
)  # fmt: skip
async def test_faulty_answer_is_explained_and_leaves_the_certificate(
    authority: FakeAuthority, path: str, reply: Reply, reason: str
) -> None:
    config = config_of(authority)
    await obtain(config)
    before = only(config).file.read_bytes()
    (authority.folder / "acme" / "account.json").unlink()
    authority.faults[path] = [reply]
    with pytest.raises(AcmeError, match=reason):
        await obtain(config, is_forced=True)
    assert only(config).file.read_bytes() == before
    assert await obtain(config, is_forced=True)


async def test_unanswered_challenge_ends_the_order(authority: FakeAuthority, tmp_path: Path) -> None:
    authority.challenges = tmp_path / "elsewhere"
    config = config_of(authority)
    with pytest.raises(AcmeError, match=r"cannot validate imap.* by tls-alpn-01: nothing answers"):
        await obtain(config)
    assert not list((tmp_path / "acme" / "orders").iterdir())
    assert not list((tmp_path / "acme" / "challenges").iterdir())


async def test_unfinished_order_is_gone_on_with(authority: FakeAuthority, tmp_path: Path) -> None:
    authority.faults["finalize"] = [(503, b"", {})]
    config = config_of(authority)
    with pytest.raises(AcmeError, match="503"):
        await obtain(config)
    (order,) = (tmp_path / "acme" / "orders").iterdir()
    assert await obtain(config, is_forced=True)
    assert len(authority.orders) == 1
    assert not order.exists()


async def test_order_without_known_url_is_found(authority: FakeAuthority, tmp_path: Path) -> None:
    """As after a crash between the authority's answer and the storage."""
    authority.faults["authz"] = [(503, b"", {})]
    config = config_of(authority)
    with pytest.raises(AcmeError):
        await obtain(config)
    (file,) = (tmp_path / "acme" / "orders").iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), "url": None}))
    assert await obtain(config, is_forced=True)
    assert len(authority.orders) == 1


async def test_order_is_gone_on_with_after_the_clock_was_set_back(
    authority: FakeAuthority, tmp_path: Path
) -> None:
    authority.faults["authz"] = [(503, b"", {})]
    config = config_of(authority)
    with pytest.raises(AcmeError):
        await obtain(config)
    (file,) = (tmp_path / "acme" / "orders").iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), "created": time.time() + 3600}))
    assert await obtain(config, is_forced=True)
    assert len(authority.orders) == 1


async def test_order_that_the_authority_has_forgotten_is_made_anew(authority: FakeAuthority) -> None:
    authority.faults["finalize"] = [(503, b"", {})]
    config = config_of(authority)
    with pytest.raises(AcmeError):
        await obtain(config)
    authority.faults["order"] = [problem(404, "malformed", "no such order")]
    assert await obtain(config, is_forced=True)
    assert len(authority.orders) == 2


async def test_bad_nonces_are_repeated(authority: FakeAuthority) -> None:
    authority.faults["neworder"] = [problem(400, "badNonce")] * 10
    assert await obtain(config_of(authority))


async def test_replaced_certificate_is_named(authority: FakeAuthority) -> None:
    now = datetime.now(UTC)
    authority.window = (now + timedelta(days=1), now + timedelta(days=2))
    config = config_of(authority)
    await obtain(config)
    await obtain(config, is_forced=True)
    assert "replaces" not in authority.orders[0]
    assert authority.orders[1]["replaces"].startswith("ZmFrZQ.")
    authority.faults["neworder"] = [problem(409, "alreadyReplaced")]
    assert await obtain(config, is_forced=True)
    assert "replaces" not in authority.orders[2]


async def test_window_decides_the_renewal(authority: FakeAuthority) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    authority.window = (now + timedelta(days=10), now + timedelta(days=10, seconds=1))
    config = config_of(authority)
    await obtain(config)
    certificate = only(config)
    each = Authority(certificate.acme)
    entry = await each.ask_window(await each.read(certificate))
    assert entry.due_at() == pytest.approx((now + timedelta(days=10)).timestamp(), abs=2)
    asked = len(authority.paths)
    await each.ask_window(entry)
    assert len(authority.paths) == asked  # not before Retry-After


async def test_failed_question_leaves_a_third(authority: FakeAuthority) -> None:
    authority.window = (datetime.now(UTC), datetime.now(UTC))
    config = config_of(authority)
    await obtain(config)
    certificate = only(config)
    each = Authority(certificate.acme)
    authority.faults["renewal"] = [problem(500, "serverInternal")]
    entry = await each.ask_window(await each.read(certificate))
    assert entry.held is not None
    assert entry.due_at() == pytest.approx(entry.held.end - 30 * 86400, abs=2)


async def test_key_stays_or_is_the_published_one(authority: FakeAuthority) -> None:
    for more, is_kept in ((", reuse_key = true", True), ("", False)):
        config = config_of(authority, more)
        await obtain(config, is_forced=True)
        before = read_entry(only(config)).issued
        await obtain(config, is_forced=True)
        after = read_entry(only(config)).issued
        assert before is not None
        assert after is not None
        assert (before.key.public_key() == after.key.public_key()) == is_kept


async def test_commands_list_obtain_test_and_revoke(authority: FakeAuthority, tmp_path: Path) -> None:
    config = config_of(authority)
    certificates, said, complaints = [only(config)], [], []  # type: ignore[var-annotated]
    assert await commands.obtain(certificates, said.append, complaints.append)
    assert await commands.test(certificates, said.append, complaints.append)
    assert await commands.revoke(certificates, "key-compromise", said.append, complaints.append)
    assert (len(said), complaints, authority.revoked, len(authority.orders)) == (3, [], 1, 2)
    assert read_entry(only(config)).due_at() == 0.0
    lines = list(commands.list_lines(config, load_certificates(config), ()))
    assert lines[0].split()[:4] == ["name", "key", "until", "from"]
    assert lines[1].startswith(f"{NAME}  ecdsa-p256  ")
    authority.faults["directory"] = [(500, b"", {})] * 3
    assert not await commands.obtain(certificates, said.append, complaints.append)
    assert not await commands.test(certificates, said.append, complaints.append)
    assert not await commands.revoke(certificates, "superseded", said.append, complaints.append)
    assert len(complaints) == 3


@pytest.mark.parametrize("command", [commands.obtain, commands.test])
async def test_commands_name_the_process_that_they_wait_for(
    authority: FakeAuthority, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailproxy.acme.lock._POLL_S", 0.02)
    said: list[str] = []
    complaints: list[str] = []
    lock = tmp_path / "acme" / "lock"
    lock.parent.mkdir(mode=0o700)
    lock.write_text(json.dumps({"token": "x", "pid": 7, "host": "other", "boot": "x"}))
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(command, [only(config_of(authority))], said.append, complaints.append)
            await wait_until(lambda: complaints)
            lock.unlink()
    assert complaints == [f"{NAME} (ecdsa-p256): waits for process 7 on other, which holds {lock}"]
    assert len(said) == 1


async def test_clock_that_jumps_renews_once(
    authority: FakeAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forth over the time of renewal, then back before the first certificate."""
    monkeypatch.setattr("mailproxy.acme.service._MAX_SLEEP_S", 0.02)
    config, now, offset = config_of(authority), time.time, 0.0
    monkeypatch.setattr("time.time", lambda: now() + offset)
    log = Log([Output(open_target(str(tmp_path / "log"), None), "json")])
    service = AcmeService(lambda: config, http={}, log=log, on_stored=lambda: None)
    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run)
            for days, orders in ((0, 1), (61, 2), (-200, 2), (0, 2)):
                authority.lifetime = timedelta(days=90 + days)  # it has the same clock
                offset = days * 86400.0
                await wait_until(partial(_are_done, service, authority, orders))
                await trio.sleep(0.3)  # many turns of the service
                assert len(authority.orders) == orders
            nursery.cancel_scope.cancel()
    assert service.statuses[0].failures == 0


def _are_done(service: AcmeService, authority: FakeAuthority, orders: int) -> bool:
    results = [(each.last_result, each.is_running) for each in service.statuses]
    return (results, len(authority.orders)) == ([("ok", False)], orders)


async def test_cancelled_order_leaves_nothing_behind(authority: FakeAuthority, tmp_path: Path) -> None:
    """Cancelled after each of its first steps, as when the proxy stops."""
    config = config_of(authority)
    for milliseconds in range(0, 200, 10):
        with trio.move_on_after(milliseconds / 1000):
            await obtain(config, is_forced=True)
        assert not (tmp_path / "acme" / "lock").exists()
        # An abandoned thread may still write a file to its end.
        await wait_until(lambda: not list((tmp_path / "acme").rglob("*.tmp")))
    assert await obtain(config, is_forced=True)


def test_record_of_compromised_key_is_kept() -> None:
    record = Record(is_compromised=True, is_forced=True)
    assert Record.from_json(record.as_json()) == record
    assert make_key("ecdsa-p256").key_size == 256
    assert AcmeError in FAILURES


async def test_bug_backs_off_as_a_failure(authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Authority, "solver", broken)
    config = config_of(authority)
    with pytest.raises(RuntimeError):
        await obtain(config)
    assert read_entry(only(config)).record.failures == 1
