"""Who is let in by the layouts in `config/` that are about that: certificates, headers, networks, server names."""

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
    STARTTLS_DEMANDED,
    run_layout,
)
from tests.support.programs.imap_clients import Imaplib, ImaplibConnection, is_refused

if TYPE_CHECKING:
    from pathlib import Path

    from tests.interop.conftest import Site
    from tests.support.interop.layouts import RunningLayout, RunningLayouts
    from tests.support.programs.imap_clients import ClientAddress, MailUser

pytestmark = pytest.mark.peers


class TestClientCertificates:
    @pytest.fixture
    def layout(self, deployments: RunningLayouts) -> RunningLayout:
        return deployments[CLIENT_CERTIFICATES]

    @pytest.fixture
    def door(self, layout: RunningLayout) -> ClientAddress:
        return layout.client_address(CLIENT_CERTIFICATES.entrances[0])

    def test_the_name_in_it_is_the_user(
        self, layout: RunningLayout, door: ClientAddress, mail_user: MailUser, site: Site
    ) -> None:
        with_certificate = attrs.evolve(mail_user, certificate=site.users.client(mail_user.name))
        assert Imaplib(door, with_certificate).folders() == {"INBOX"}
        login = layout.login(mail_user.name)
        assert (login.method, login.client, login.security) == ("EXTERNAL", mail_user.address, "secured")

    def test_it_is_nobody_else(self, door: ClientAddress, mail_user: MailUser, site: Site) -> None:
        with_certificate = attrs.evolve(mail_user, certificate=site.users.client("user-of-another-name"))
        with pytest.raises(imaplib.IMAP4.error, match="Authentication failed"):
            authenticate(door, with_certificate, as_user=mail_user.name)

    def test_who_has_none_logs_in_with_a_password(
        self, layout: RunningLayout, door: ClientAddress, mail_user: MailUser
    ) -> None:
        assert Imaplib(door, mail_user).folders() == {"INBOX"}
        assert layout.login(mail_user.name).method == "PLAIN"

    def test_who_has_none_does_not_log_in_without_a_password(
        self, door: ClientAddress, mail_user: MailUser
    ) -> None:
        with pytest.raises(imaplib.IMAP4.error, match="Authentication failed"):
            authenticate(door, mail_user, as_user=mail_user.name)

    def test_one_of_another_authority_ends_the_handshake(
        self, layout: RunningLayout, door: ClientAddress, mail_user: MailUser, site: Site
    ) -> None:
        with_certificate = attrs.evolve(mail_user, certificate=site.servers.client(mail_user.name))
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            Imaplib(door, with_certificate).session()
        layout.proxy.log.wait_for(re.compile(r".*certificate-refused.*"))


def authenticate(door: ClientAddress, mail_user: MailUser, as_user: str) -> None:
    """By SASL EXTERNAL, and with that user's name besides."""
    connection = ImaplibConnection(door, mail_user)
    try:
        connection.authenticate("EXTERNAL", lambda _: as_user.encode())
    finally:
        connection.shutdown()


class TestMutualTls:
    """From the proxy's own address."""

    @pytest.fixture
    def door(self, deployments: RunningLayouts) -> ClientAddress:
        layout = deployments[MUTUAL_TLS]
        return layout.server_address(layout.dovecots[0].address, "tls")

    def test_who_shows_no_certificate_gets_no_login(self, door: ClientAddress, mail_user: MailUser) -> None:
        with pytest.raises(imaplib.IMAP4.error, match="valid SSL certificate"):
            Imaplib(door, attrs.evolve(mail_user, address="127.0.0.1")).session()


class TestStarttlsDemanded:
    def test_no_password_in_clear_text(self, deployments: RunningLayouts, mail_user: MailUser) -> None:
        door = deployments[STARTTLS_DEMANDED].client_address(CLEAR)
        with pytest.raises(imaplib.IMAP4.error, match="PRIVACYREQUIRED"):
            Imaplib(door, mail_user).session()


class TestChain:
    """The proxy in front of itself."""

    @pytest.fixture
    def layout(self, deployments: RunningLayouts) -> RunningLayout:
        return deployments[CHAIN]

    @pytest.mark.parametrize("name", ["mail.example.com", "localhost", "127.0.0.1"])
    def test_who_asks_for_another_name_or_none_gets_an_alert(
        self, layout: RunningLayout, mail_user: MailUser, name: str
    ) -> None:
        door = attrs.evolve(layout.client_address(CHAIN.entrances[0]), name=name)
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            Imaplib(door, mail_user).session()

    def test_who_sends_no_header_is_refused_behind_it(
        self, layout: RunningLayout, mail_user: MailUser
    ) -> None:
        door = layout.server_address(("127.0.0.1", layout.ports[143]))
        assert is_refused(mail_user, attrs.evolve(door, header=b"a1 CAPABILITY\r\n"))
        layout.proxy.log.wait_for(re.compile(r".*header-missing.*"))

    def test_who_comes_from_elsewhere_is_refused_behind_it(
        self, site: Site, folder: Path, mail_user: MailUser
    ) -> None:
        narrower = attrs.evolve(CHAIN, changes={'"127.0.0.0/8"': '"127.0.0.1/32"'})
        with run_layout(narrower, site, folder) as layout:
            assert Imaplib(layout.client_address(CHAIN.entrances[0]), mail_user).folders() == {"INBOX"}
            assert is_refused(mail_user, layout.server_address(("127.0.0.1", layout.ports[143])))
            layout.proxy.log.wait_for(re.compile(r".*127\.0\.0\.9.*untrusted.*"))
