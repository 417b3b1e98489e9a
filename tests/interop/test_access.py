"""Access control in the layouts of `config/`: certificates, headers, networks, server names."""

from __future__ import annotations

import imaplib
import re
import ssl
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.support.interop.layouts import (
    CHAIN,
    CLEAR,
    CLIENT_CERTIFICATES,
    MUTUAL_TLS,
    STARTTLS_REQUIRED,
    run_layout,
)
from tests.support.programs.imap_clients import Imaplib, ImaplibConnection, is_refused

if TYPE_CHECKING:
    from pathlib import Path

    from tests.interop.conftest import Site
    from tests.support.interop.layouts import RunningLayout, RunningLayouts
    from tests.support.programs.imap_clients import Endpoint, MailUser

pytestmark = pytest.mark.peers


class TestClientCertificates:
    @pytest.fixture
    def layout(self, deployments: RunningLayouts) -> RunningLayout:
        return deployments[CLIENT_CERTIFICATES]

    @pytest.fixture
    def endpoint(self, layout: RunningLayout) -> Endpoint:
        return layout.client_endpoint(CLIENT_CERTIFICATES.binds[0])

    def test_name_in_certificate_is_the_user(
        self, layout: RunningLayout, endpoint: Endpoint, mail_user: MailUser, site: Site
    ) -> None:
        user_with_certificate = attrs.evolve(mail_user, certificate=site.users.client(mail_user.name))
        assert Imaplib(endpoint, user_with_certificate).folders() == {"INBOX"}
        login = layout.login(mail_user.name)
        assert (login.method, login.client, login.security) == ("EXTERNAL", mail_user.address, "secured")

    def test_certificate_does_not_log_in_another_user(
        self, endpoint: Endpoint, mail_user: MailUser, site: Site
    ) -> None:
        user_with_certificate = attrs.evolve(mail_user, certificate=site.users.client("user-of-another-name"))
        with pytest.raises(imaplib.IMAP4.error, match="Authentication failed"):
            authenticate(endpoint, user_with_certificate, as_user=mail_user.name)

    def test_client_without_certificate_logs_in_with_password(
        self, layout: RunningLayout, endpoint: Endpoint, mail_user: MailUser
    ) -> None:
        assert Imaplib(endpoint, mail_user).folders() == {"INBOX"}
        assert layout.login(mail_user.name).method == "PLAIN"

    def test_client_without_certificate_or_password_is_refused(
        self, endpoint: Endpoint, mail_user: MailUser
    ) -> None:
        with pytest.raises(imaplib.IMAP4.error, match="Authentication failed"):
            authenticate(endpoint, mail_user, as_user=mail_user.name)

    def test_certificate_of_another_ca_fails_the_handshake(
        self, layout: RunningLayout, endpoint: Endpoint, mail_user: MailUser, site: Site
    ) -> None:
        user_with_certificate = attrs.evolve(mail_user, certificate=site.servers.client(mail_user.name))
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            Imaplib(endpoint, user_with_certificate).session()
        layout.proxy.log.wait_for(re.compile(r".*certificate-refused.*"))


def authenticate(endpoint: Endpoint, mail_user: MailUser, as_user: str) -> None:
    """Log in by SASL EXTERNAL with an explicit user name."""
    connection = ImaplibConnection(endpoint, mail_user)
    try:
        connection.authenticate("EXTERNAL", lambda _: as_user.encode())
    finally:
        connection.shutdown()


class TestMutualTls:
    """Clients with the proxy's own address."""

    @pytest.fixture
    def endpoint(self, deployments: RunningLayouts) -> Endpoint:
        layout = deployments[MUTUAL_TLS]
        return layout.server_endpoint(layout.dovecots[0].address, "tls")

    def test_login_without_certificate_is_refused(self, endpoint: Endpoint, mail_user: MailUser) -> None:
        with pytest.raises(imaplib.IMAP4.error, match="valid SSL certificate"):
            Imaplib(endpoint, attrs.evolve(mail_user, address="127.0.0.1")).session()


class TestStarttlsRequired:
    def test_password_in_clear_text_is_refused(
        self, deployments: RunningLayouts, mail_user: MailUser
    ) -> None:
        endpoint = deployments[STARTTLS_REQUIRED].client_endpoint(CLEAR)
        with pytest.raises(imaplib.IMAP4.error, match="PRIVACYREQUIRED"):
            Imaplib(endpoint, mail_user).session()


class TestChain:
    """A proxy in front of itself."""

    @pytest.fixture
    def layout(self, deployments: RunningLayouts) -> RunningLayout:
        return deployments[CHAIN]

    @pytest.mark.parametrize("name", ["mail.example.com", "localhost", "127.0.0.1"])
    def test_other_or_missing_server_name_gets_an_alert(
        self, layout: RunningLayout, mail_user: MailUser, name: str
    ) -> None:
        endpoint = attrs.evolve(layout.client_endpoint(CHAIN.binds[0]), name=name)
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            Imaplib(endpoint, mail_user).session()

    def test_client_without_header_is_refused(self, layout: RunningLayout, mail_user: MailUser) -> None:
        endpoint = layout.server_endpoint(("127.0.0.1", layout.ports[143]))
        assert is_refused(mail_user, attrs.evolve(endpoint, header=b"a1 CAPABILITY\r\n"))
        layout.proxy.log.wait_for(re.compile(r".*header-missing.*"))

    def test_header_from_untrusted_address_is_refused(
        self, site: Site, folder: Path, mail_user: MailUser
    ) -> None:
        narrower = attrs.evolve(CHAIN, changes={**CHAIN.changes, '"127.0.0.0/8"': '"127.0.0.1/32"'})
        with run_layout(narrower, site, folder) as layout:
            assert Imaplib(layout.client_endpoint(CHAIN.binds[0]), mail_user).folders() == {"INBOX"}
            with mail_user.connection(layout.server_endpoint(("127.0.0.1", layout.ports[143]))) as connection:
                assert connection.recv(100).startswith(b"* BYE ")
            layout.proxy.log.wait_for(re.compile(r".*127\.0\.0\.9.*untrusted.*"))
