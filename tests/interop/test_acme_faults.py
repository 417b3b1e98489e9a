"""Authorities, disks and processes that fail: the old certificate stays, and nothing is half written."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen
from cryptography import x509

from mailproxy.acme.schedule import Record
from mailproxy.acme.storage import Storage
from mailproxy.testing import ThrowAwayCA
from tests.support.acme.front import Answer, Front, Rule, waits
from tests.support.acme.pebble import Pebble
from tests.support.acme.site import (
    NAME,
    certificate_at,
    certificate_of_all_workers,
    certs,
    configuration,
    eventually,
    verified_certificate,
)
from tests.support.ports import free_port
from tests.support.program import TIMEOUT_S, Program
from tests.support.worker_group import GreetingServer, greeting_servers

# Fixtures are arguments.
# ruff: noqa: PLR0917

pytestmark = [pytest.mark.peers, pytest.mark.slow]

STATE = f"state/{NAME}.ecdsa-p256.json"
CERTIFICATE = f"certificates/{NAME}.ecdsa-p256.pem"


@pytest.fixture
def server() -> Iterator[GreetingServer]:
    server = GreetingServer("* OK d1")
    yield server
    server.close()


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowAwayCA:
    return ThrowAwayCA(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def port() -> int:
    """Return the port of the proxies, which Pebble validates."""
    return free_port()


@pytest.fixture(scope="module")
def shared_pebble(tmp_path_factory: pytest.TempPathFactory, ca: ThrowAwayCA, port: int) -> Iterator[Pebble]:
    with Pebble(tmp_path_factory.mktemp("pebble"), ca, tls_port=port) as pebble:
        yield pebble


@pytest.fixture
def pebble(shared_pebble: Pebble) -> Pebble:
    """Return a Pebble that counts the orders of this test. Each storage has an account of its own."""
    shared_pebble.start_test()
    return shared_pebble


@pytest.fixture
def front(tmp_path: Path, ca: ThrowAwayCA, pebble: Pebble) -> Iterator[Front]:
    with Front(pebble, ca, tmp_path) as front:
        yield front


@pytest.fixture
def text(tmp_path: Path, ca: ThrowAwayCA, front: Front, port: int, server: GreetingServer) -> str:
    return configuration(
        directory=front.directory, ca=ca.pem, storage=tmp_path / "acme", port=port, server=server,
        process="workers = 2",
    )  # fmt: skip


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "acme")


def force_renewal(storage: Storage) -> None:
    """Have the certificate renewed now, as after a revocation."""
    record = storage.read_json(STATE) or {}
    storage.write_json(STATE, {**record, "is_forced": True, "not_before": 0.0})


def record_of(storage: Storage) -> Record:
    return Record.from_json(storage.read_json(STATE))


def leftovers(storage: Storage) -> list[str]:
    """Return files that others can read, and files of certificates and orders that are half written."""
    files = [file for file in storage.folder.rglob("*") if file.is_file()]
    loose = [str(file) for file in files if stat.S_IMODE(file.stat().st_mode) != 0o600]
    return loose + [str(file) for file in files if not file.name.startswith(".") and not file.read_bytes()]


def at(path: str, answer: Answer) -> Rule:
    """Answer requests for a path of Pebble."""
    return lambda _method, requested, _body: answer if requested.startswith(path) else None


HTML = Answer(200, b"<html>hello</html>", (("Content-Type", "text/html"),))
FAULTS = {
    "directory is a page": at("/dir", HTML),
    "directory is empty": at("/dir", Answer(200, b"{}")),
    "directory is a list": at("/dir", Answer(200, b"[]")),
    "error without problem": at("/dir", Answer(500, b"oops")),
    "no nonce": at("/nonce-plz", Answer(200, b"", ())),
    "account is refused": at("/sign-me-up", Answer.problem(403, "unauthorized", "no \x1b[31m way")),
    "order is nonsense": at("/order-plz", HTML),
    "order is refused": at("/order-plz", Answer.problem(400, "rejectedIdentifier", "not this name")),
    "endless answer": at("/dir", Answer(200, b" " * (3 << 20))),
    "unavailable": at("/order-plz", Answer(503, b"", (("Retry-After", "120"),))),
}


@frozen
class RunningSite:
    """A proxy that has a certificate."""

    front: Front
    proxy: Program
    storage: Storage
    context: ssl.SSLContext


@pytest.fixture(scope="class")
def site(
    tmp_path_factory: pytest.TempPathFactory, ca: ThrowAwayCA, shared_pebble: Pebble, port: int
) -> Iterator[RunningSite]:
    folder = tmp_path_factory.mktemp("site")
    storage = Storage(folder / "acme")
    with greeting_servers("d1") as (server,), Front(shared_pebble, ca, folder) as front:
        text = configuration(
            directory=front.directory, ca=ca.pem, storage=storage.folder, port=port, server=server,
            process="workers = 2",
        )  # fmt: skip
        with Program(text, folder) as proxy:
            context = shared_pebble.client_context()
            certificate_of_all_workers(port, context)
            proxy.wait_for("obtained imap")
            yield RunningSite(front, proxy, storage, context)
            assert "Traceback" not in proxy.text


class TestFaultyAuthority:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_old_certificate_stays(self, fault: str, site: RunningSite, port: int) -> None:
        front, storage = site.front, site.storage
        before = storage.read(CERTIFICATE)
        assert before is not None
        (storage.folder / "account.json").unlink()  # so that one is registered again
        front.rules.append(FAULTS[fault])
        result = certs("obtain", site.proxy.file)
        front.rules.clear()
        assert result.returncode == 1, result
        assert "Traceback" not in result.stderr
        assert "\x1b" not in result.stderr
        assert len(result.stderr) < 600
        assert storage.read(CERTIFICATE) == before
        assert verified_certificate(port, site.context)
        assert certs("obtain", site.proxy.file).returncode == 0
        assert storage.read(CERTIFICATE) != before
        assert leftovers(storage) == []


def test_authority_that_is_down_is_tried_again(
    text: str, front: Front, tmp_path: Path, storage: Storage, port: int
) -> None:
    """At the start: other frontends and self-signed certificates are served, and the back-off is kept."""
    with Program(text.replace(front.directory, f"https://127.0.0.1:{free_port()}/dir"), tmp_path) as proxy:
        proxy.wait_for(r"cannot obtain imap\.example\.com .*: the authority cannot be reached")
        assert certificate_at(port).issuer == certificate_at(port).subject
        record = record_of(storage)
        assert record.failures == 1
        assert record.last_attempt is not None
        assert 55 < record.not_before - record.last_attempt < 75
        assert "Traceback" not in proxy.text


def test_retry_after_is_kept_over_a_restart(
    text: str, front: Front, tmp_path: Path, storage: Storage
) -> None:
    front.rules.append(at("/order-plz", Answer.problem(429, "rateLimited", "too many", Retry_After="5000")))
    with Program(text, tmp_path) as proxy:
        proxy.wait_for("too many")
    record = record_of(storage)
    assert record.last_attempt is not None
    assert record.not_before - record.last_attempt >= 5000
    orders = front.count("/order-plz")
    with Program(text, tmp_path) as proxy:
        proxy.wait_for("mailproxy is ready")
        eventually(lambda: "rateLimited" in certs("list", proxy.file).stdout)
        assert front.count("/order-plz") == orders


def test_failed_validation_is_explained(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer, storage: Storage
) -> None:
    """The authority connects to another port: the log says what it says."""
    with Pebble(tmp_path, ca, tls_port=free_port()) as pebble:
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=storage.folder, port=port, server=server
        )
        with Program(text, tmp_path) as proxy:
            proxy.wait_for(r"cannot validate imap\.example\.com by tls-alpn-01: Failed to connect")
        assert storage.read_json(f"orders/{NAME}.ecdsa-p256.json") is None


def test_blocked_name_is_refused(
    tmp_path: Path, ca: ThrowAwayCA, port: int, server: GreetingServer, storage: Storage
) -> None:
    with Pebble(tmp_path, ca, tls_port=port, blocked=("example.com",)) as pebble:
        text = configuration(
            directory=pebble.directory, ca=ca.pem, storage=storage.folder, port=port, server=server
        )
        with Program(text, tmp_path) as proxy:
            proxy.wait_for(r"the authority refuses: .*\(rejectedIdentifier\)")


def test_other_certificate_is_not_stored(
    text: str, front: Front, tmp_path: Path, ca: ThrowAwayCA, storage: Storage, port: int
) -> None:
    """The authority sends the certificate of another key, once."""
    other = ca.issue(NAME, folder=tmp_path).read_bytes()
    chain = other[other.index(b"-----BEGIN CERTIFICATE") :]
    sent: list[str] = []

    def swap(path: str, _status: int, _body: bytes) -> Answer | None:
        if not path.startswith("/certZ/") or sent:
            return None
        sent.append(path)
        headers = (
            ("Content-Type", "application/pem-certificate-chain"),
            ("Replay-Nonce", "AAAAAAAAAAAAAAAAAAAAAA"),
        )
        return Answer(200, chain, headers)

    front.after.append(swap)
    with Program(text, tmp_path) as proxy:
        proxy.wait_for("certificate of another key")
        assert storage.read(CERTIFICATE) is None
        assert certs("obtain", proxy.file).returncode == 0
        context = front.pebble.client_context()
        eventually(lambda: verified_certificate(port, context))


def test_silent_authority_keeps_nothing_waiting(text: str, front: Front, tmp_path: Path, port: int) -> None:
    gate = threading.Event()
    front.rules.append(waits(gate))
    with Program(text, tmp_path) as proxy:
        proxy.wait_for("mailproxy is ready")
        proxy.wait_for("obtains imap")
        assert certificate_at(port).issuer  # sessions are served
        proxy.send(signal.SIGTERM)  # and the end does not wait for the thread
        assert proxy.wait() == 0
    gate.set()


# Where an order can be killed: before the authority gets a request, or after it has answered.
STEPS = ["/sign-me-up", "/order-plz", "/authZ/", "/chalZ/", "/finalize-order/", "/my-order/", "/certZ/"]


@pytest.mark.parametrize("is_answered", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_order_is_gone_on_with(
    step: str, is_answered: bool, text: str, front: Front, tmp_path: Path, storage: Storage, port: int
) -> None:
    reached, gate = threading.Event(), threading.Event()

    def stop_here(path: str) -> Answer | None:
        if not path.startswith(step) or reached.is_set():
            return None
        reached.set()
        gate.wait(TIMEOUT_S)
        return Answer(500, b"")  # to a process that is gone

    def before(_method: str, path: str, _body: bytes) -> Answer | None:
        return None if is_answered else stop_here(path)

    def after(path: str, status: int, _body: bytes) -> Answer | None:
        return stop_here(path) if is_answered and status < 400 else None

    front.rules.append(before)
    front.after.append(after)
    with Program(text, tmp_path, start_new_session=True) as proxy:
        assert reached.wait(2 * TIMEOUT_S), proxy.text
        os.killpg(proxy.process.pid, signal.SIGKILL)
        proxy.process.wait()
        gate.set()
    assert leftovers(storage) == []
    with Program(text, tmp_path) as proxy:
        context = front.pebble.client_context()
        eventually(lambda: verified_certificate(port, context))
        proxy.wait_for("obtained imap")
        # A validation that has begun fails if nothing answers, and a failed order cannot be gone on with.
        assert front.pebble.orders <= (2 if step == "/chalZ/" and is_answered else 1)
        assert len(re.findall(r"There are now \d+ accounts", front.pebble.log)) == 1
        assert leftovers(storage) == []
        assert storage.read_json(f"orders/{NAME}.ecdsa-p256.json") is None


def test_killed_control_process_goes_on_with_the_order(
    text: str, front: Front, tmp_path: Path, port: int
) -> None:
    reached = threading.Event()

    def hang(_method: str, path: str, _body: bytes) -> None:
        if path.startswith("/finalize-order/") and not reached.is_set():
            reached.set()
            threading.Event().wait(2)

    front.rules.append(hang)
    with Program(text, tmp_path) as proxy:
        assert reached.wait(2 * TIMEOUT_S)
        children = Path(f"/proc/{proxy.process.pid}/task/{proxy.process.pid}/children").read_text().split()
        (control,) = [pid for pid in children if "control" in Path(f"/proc/{pid}/comm").read_text()]
        os.kill(int(control), signal.SIGKILL)
        context = front.pebble.client_context()
        eventually(lambda: verified_certificate(port, context))
        assert front.pebble.orders == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own for the storage."""
    folder = tmp_path / "acme"
    folder.mkdir(0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_keeps_old_certificate(
    small_disk: Path, text: str, front: Front, tmp_path: Path, storage: Storage, port: int
) -> None:
    with Program(text, tmp_path) as proxy:
        context = front.pebble.client_context()
        first = certificate_of_all_workers(port, context)
        proxy.wait_for("obtained imap")
        (small_disk / "ballast").write_bytes(b"")
        with contextlib.suppress(OSError):
            (small_disk / "ballast").write_bytes(b"x" * (1 << 20))
        result = certs("obtain", proxy.file)
        assert result.returncode == 1
        assert "No space left on device" in result.stderr
        assert certificate_at(port, context=context) == first
        (small_disk / "ballast").unlink()
        assert certs("obtain", proxy.file).returncode == 0
        eventually(lambda: certificate_at(port, context=context) != first)
        assert leftovers(storage) == []


def test_read_only_storage_keeps_old_certificate(
    small_disk: Path, text: str, front: Front, tmp_path: Path, storage: Storage, port: int
) -> None:
    with Program(text, tmp_path, start_new_session=True) as proxy:
        context = front.pebble.client_context()
        first = certificate_of_all_workers(port, context)
        proxy.wait_for("obtained imap")
        os.killpg(proxy.process.pid, signal.SIGSTOP)
        force_renewal(storage)
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        os.killpg(proxy.process.pid, signal.SIGCONT)
        proxy.wait_for("cannot obtain .*: Read-only file system")
        assert certificate_at(port, context=context) == first
    with Program(text, tmp_path) as proxy:  # it starts with such a storage, too
        proxy.wait_for("mailproxy is ready")
        assert certificate_at(port, context=context) == first
        assert len(re.findall("cannot obtain", proxy.text)) <= 1


def test_damaged_certificate_file_is_obtained_again(
    text: str, front: Front, tmp_path: Path, storage: Storage, port: int
) -> None:
    with Program(text, tmp_path):
        context = front.pebble.client_context()
        eventually(lambda: verified_certificate(port, context))
    (storage.folder / CERTIFICATE).write_bytes(b"\0" * 2000)
    with Program(text, tmp_path):
        eventually(lambda: verified_certificate(port, context))


def test_secrets_are_in_no_output(
    text: str, front: Front, tmp_path: Path, storage: Storage, port: int
) -> None:
    with Program(text.replace("[process]", '[log]\nlevel = "debug"\n[process]'), tmp_path) as proxy:
        context = front.pebble.client_context()
        eventually(lambda: verified_certificate(port, context))
        outputs = [
            certs(command, proxy.file, *names)
            for command, names in (
                ("list", ()),
                ("tlsa", ()),
                ("obtain", ()),
                ("test", ()),
                ("revoke", (NAME,)),
            )
        ]
        everything = proxy.text + "".join(output.stdout + output.stderr for output in outputs)
        for file in storage.folder.rglob("*"):
            if file.is_file():
                for line in file.read_text().splitlines():
                    if re.fullmatch(r"[A-Za-z0-9+/=]{20,}", line) and "CERTIFICATE" not in line:
                        assert line not in everything
        assert "PRIVATE KEY" not in everything


def test_change_of_user_keeps_certificates_readable(
    open_folder: Path, text: str, front: Front, tmp_path: Path, port: int
) -> None:
    """Root binds and loads, `nobody` obtains, and root starts again with what `nobody` has stored."""
    folder = open_folder / "acme"
    open_ca = open_folder / "ca.pem"
    open_ca.write_bytes(front.ca.pem.read_bytes())
    changed = re.sub(r'storage = ".*"', f'storage = "{folder}"', text)
    changed = re.sub(r'ca = ".*"', f'ca = "{open_ca}"', changed)
    changed = changed.replace("[process]", '[process]\nuser = "nobody"')
    for _ in range(2):
        with Program(changed, tmp_path) as proxy:
            context = front.pebble.client_context()
            eventually(lambda context=context: verified_certificate(port, context))  # type: ignore[misc]
            assert "cannot" not in proxy.text
    assert front.pebble.orders == 1
    certs("obtain", tmp_path / "mailproxy.toml")  # by root; it fails without a running proxy
    owners = {
        (file.owner(), stat.S_IMODE(file.stat().st_mode)) for file in folder.rglob("*") if file.is_file()
    }
    assert owners == {("nobody", 0o600)}


def test_revoked_certificate_is_replaced_with_another_key(
    text: str, front: Front, tmp_path: Path, port: int
) -> None:
    with Program(text.replace("terms_agreed", "reuse_key = true\nterms_agreed"), tmp_path) as proxy:
        context = front.pebble.client_context()
        first = certificate_of_all_workers(port, context)
        result = certs("revoke", proxy.file, NAME, "--reason", "key-compromise")
        assert result.returncode == 0, result
        assert front.pebble.status_of(first.serial_number) == "Revoked"

        def other() -> x509.Certificate | None:
            now = verified_certificate(port, context)
            return now if now != first else None

        assert eventually(other).public_key() != first.public_key()


def test_test_changes_nothing(text: str, front: Front, tmp_path: Path, storage: Storage, port: int) -> None:
    with Program(text, tmp_path) as proxy:
        context = front.pebble.client_context()
        first = certificate_of_all_workers(port, context)
        proxy.wait_for("obtained imap")
        eventually(lambda: record_of(storage).ari_due)  # the last thing that is written
        before = {file: file.read_bytes() for file in storage.folder.rglob("*") if file.is_file()}
        result = certs("test", proxy.file)
        assert result.returncode == 0, result
        assert front.directory in result.stdout
        assert {file: file.read_bytes() for file in storage.folder.rglob("*") if file.is_file()} == before
        assert certificate_at(port, context=context) == first


def test_published_next_key_is_used(text: str, front: Front, tmp_path: Path, port: int) -> None:
    """The TLSA records of both keys are published; after the renewal one of them still matches."""
    with Program(text.replace("terms_agreed", "next_key = true\nterms_agreed"), tmp_path) as proxy:
        context = front.pebble.client_context()
        first = certificate_of_all_workers(port, context)
        records = certs("tlsa", proxy.file, NAME).stdout.splitlines()
        assert [line.partition(" ; ")[2].partition(",")[0] for line in records] == [
            "in use",
            "the next certificate's",
        ]
        assert all(line.startswith(f"_{port}._tcp.{NAME}. IN TLSA 3 1 1 ") for line in records)
        assert certs("obtain", proxy.file).returncode == 0
        eventually(lambda: certificate_at(port, context=context) != first)
        renewed = certs("tlsa", proxy.file, NAME).stdout.splitlines()
        digest = [line.split()[6] for line in (*records, *renewed)]
        assert digest[1] == digest[2]
        assert len(set(digest)) == 3


def test_unknown_name_is_refused(text: str, front: Front, tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text(text)
    result = certs("obtain", file, "pop.example.com")
    assert result.returncode == 2
    assert result.stderr == f"{file}: no certificate by ACME has the name pop.example.com\n"


def test_challenge_without_order_is_refused(text: str, front: Front, tmp_path: Path, port: int) -> None:
    """Every client may connect as an authority does: there is nothing to get."""
    with Program(text, tmp_path) as proxy:
        context = front.pebble.client_context()
        eventually(lambda: verified_certificate(port, context))
        proxy.wait_for("obtained imap")
        probe = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        probe.check_hostname, probe.verify_mode = False, ssl.CERT_NONE
        probe.set_alpn_protocols(["acme-tls/1"])
        with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLError):
            probe.wrap_socket(plain, server_hostname=NAME)
        # Names that are not ours are served like any client's.
        for name in ("account", "other.example.com"):
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                probe.wrap_socket(plain, server_hostname=name) as tls,
            ):
                assert tls.recv(100) == b"* OK d1\r\n"
        proxy.wait_for("no challenge of imap")
        assert json.loads((tmp_path / "acme" / "account.json").read_text())["url"]
