"""Two Dovecots with one mail store, and the certificates of all programs and users."""

from __future__ import annotations

import resource
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
import trustme

from tests.support.interop.layouts import RunningLayouts
from tests.support.interop.scripted_session import Comparison
from tests.support.ports import free_ports
from tests.support.programs.dovecot import USERS, Dovecot, Listener, MailStore
from tests.support.programs.imap_clients import MailUser

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("localhost", "127.0.0.1", "imap.example.com")


@attrs.frozen
class Authority:
    """A CA with one certificate. The proxy, the servers and the users have different ones."""

    ca: Path
    certificate: trustme.LeafCert
    folder: Path
    _issuer: trustme.CA

    @classmethod
    def new(cls, folder: Path) -> Authority:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate = authority.issue_cert(*NAMES)
        (folder / "certs").mkdir()
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / "certs" / "proxy.pem")
        return cls(folder / "ca.pem", certificate, folder / "certs", authority)

    def client(self, name: str) -> Path:
        """Return a file with certificate and key of the client with this name, always the same one."""
        file = self.ca.with_name(f"{name}.pem")
        if not file.exists():
            certificate = self._issuer.issue_cert(common_name=name)
            certificate.private_key_and_cert_chain_pem.write_to_path(file)
        return file


@attrs.frozen
class Site:
    """The servers on 127.0.0.2 and 127.0.0.3, each with a clear port and one for TLS."""

    dovecots: tuple[Dovecot, Dovecot]
    store: MailStore
    servers: Authority
    proxy: Authority
    users: Authority
    _unused_users: Iterator[str]

    @contextmanager
    def new_user(self) -> Iterator[str]:
        """Yield a user that no other test uses. The mail is deleted with the user."""
        user = next(self._unused_users)
        yield user
        self.store.forget(user)


@pytest.fixture(scope="session")
def descriptors() -> None:
    """Allow enough descriptors for 500 sessions, for this process and its children."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard_limit, 8_192), hard_limit))


@pytest.fixture(scope="session")
def site(descriptors: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    servers = Authority.new(tmp_path_factory.mktemp("servers"))
    proxy = Authority.new(tmp_path_factory.mktemp("proxy"))
    users = Authority.new(tmp_path_factory.mktemp("users"))
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    clear_port, tls_port = free_ports(2, hosts)
    with ExitStack() as running:
        store = running.enter_context(MailStore())
        first, second = (
            running.enter_context(
                Dovecot(
                    host,
                    Listener(clear_port),
                    Listener(tls_port, tls=True),
                    users=USERS,
                    store=store,
                    certificate=servers.certificate,
                )
            )
            for host in hosts[1:]
        )
        yield Site((first, second), store, servers, proxy, users, iter(USERS))


@pytest.fixture(scope="module")
def deployments(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLayouts]:
    """Run layouts of `config/` on first use."""
    with RunningLayouts(site, tmp_path_factory.mktemp("layouts")) as running:
        yield running


@pytest.fixture
def user(site: Site) -> Iterator[str]:
    with site.new_user() as user:
        yield user


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that is removed after the test, unlike pytest's, because the messages are large."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def mail_user(user: str, folder: Path) -> MailUser:
    return MailUser(user, folder)


@pytest.fixture(params=["clear", "tls"])
def comparison(request: pytest.FixtureRequest, site: Site, folder: Path) -> Comparison:
    """Return a comparison of HAProxy and mailproxy, on a clear bind and on a TLS bind."""
    return Comparison(
        folder=folder,
        certificates=site.proxy.folder / "proxy.pem",
        ca=site.proxy.ca,
        tls=request.param == "tls",
    )


@pytest.fixture
def tls_comparison(site: Site, folder: Path) -> Comparison:
    return Comparison(folder=folder, certificates=site.proxy.folder / "proxy.pem", ca=site.proxy.ca, tls=True)
