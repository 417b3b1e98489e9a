"""Two Dovecots with one store of mail, and the certificates that everybody here shows and trusts."""

from __future__ import annotations

import resource
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
import trustme

from .clients import Person
from .dovecot import Dovecot, MailStore
from .ends import Stage
from .programs import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("localhost", "127.0.0.1")
USERS = [f"user{n}" for n in range(500)]


@attrs.frozen
class Authority:
    """Whoever trusts this file knows who answered: the proxy and the servers have different ones."""

    ca: Path
    certificate: trustme.LeafCert
    folder: Path

    @classmethod
    def new(cls, folder: Path) -> Authority:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate = authority.issue_cert(*NAMES)
        (folder / "certs").mkdir()
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / "certs" / "proxy.pem")
        return cls(folder / "ca.pem", certificate, folder / "certs")


@attrs.frozen
class Site:
    """The servers on 127.0.0.2 and 127.0.0.3, on the same two ports that are free on 127.0.0.1 for a proxy."""

    clear_port: int
    tls_port: int
    dovecots: tuple[Dovecot, Dovecot]
    store: MailStore
    servers: Authority
    proxy: Authority
    _unused: Iterator[str]

    @contextmanager
    def new_user(self) -> Iterator[str]:
        """Nobody else's in this run; the mail goes with the user."""
        user = next(self._unused)
        yield user
        self.store.forget(user)


@pytest.fixture(scope="session")
def descriptors() -> None:
    """Enough for 500 sessions, for this process and those that it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8_192), most))


@pytest.fixture(scope="session")
def site(descriptors: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    servers = Authority.new(tmp_path_factory.mktemp("servers"))
    proxy = Authority.new(tmp_path_factory.mktemp("proxy"))
    everywhere = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    clear_port = free_port(everywhere)
    tls_port = free_port(everywhere)
    with ExitStack() as running:
        store = running.enter_context(MailStore())
        first, second = (
            running.enter_context(
                Dovecot(
                    host,
                    clear_port=clear_port,
                    tls_port=tls_port,
                    users=USERS,
                    store=store,
                    certificate=servers.certificate,
                )
            )
            for host in everywhere[1:]
        )
        yield Site(clear_port, tls_port, (first, second), store, servers, proxy, iter(USERS))


@pytest.fixture
def user(site: Site) -> Iterator[str]:
    with site.new_user() as user:
        yield user


@pytest.fixture
def folder() -> Iterator[Path]:
    """Emptied at once, unlike pytest's own: the messages are large."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def person(user: str, folder: Path) -> Person:
    return Person(user, folder)


@pytest.fixture(params=["clear", "tls"])
def stage(request: pytest.FixtureRequest, site: Site, folder: Path) -> Stage:
    """HAProxy and mailproxy to be compared, on a clear bind and on a TLS bind."""
    return Stage(
        folder=folder,
        certificates=site.proxy.folder / "proxy.pem",
        ca=site.proxy.ca,
        tls=request.param == "tls",
    )


@pytest.fixture
def tls_stage(site: Site, folder: Path) -> Stage:
    return Stage(folder=folder, certificates=site.proxy.folder / "proxy.pem", ca=site.proxy.ca, tls=True)
