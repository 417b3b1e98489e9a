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
    deployed,
)
from tests.support.programs.imap_clients import Imaplib, ImaplibConnection, is_refused

if TYPE_CHECKING:
    from pathlib import Path

    from tests.interop.conftest import Site
    from tests.support.interop.layouts import Deployed, Deployments
    from tests.support.programs.imap_clients import Door, Person

pytestmark = pytest.mark.peers


class TestClientCertificates:
    @pytest.fixture
    def layout(self, deployments: Deployments) -> Deployed:
        return deployments[CLIENT_CERTIFICATES]

    @pytest.fixture
    def door(self, layout: Deployed) -> Door:
        return layout.door(CLIENT_CERTIFICATES.entrances[0])

    def test_the_name_in_it_is_the_user(
        self, layout: Deployed, door: Door, person: Person, site: Site
    ) -> None:
        with_certificate = attrs.evolve(person, certificate=site.users.client(person.name))
        assert Imaplib(door, with_certificate).folders() == {"INBOX"}
        login = layout.login(person.name)
        assert (login.method, login.client, login.security) == ("EXTERNAL", person.address, "secured")

    def test_it_is_nobody_else(self, door: Door, person: Person, site: Site) -> None:
        with_certificate = attrs.evolve(person, certificate=site.users.client("user-of-another-name"))
        with pytest.raises(imaplib.IMAP4.error, match="Authentication failed"):
            authenticate(door, with_certificate, as_user=person.name)

    def test_who_has_none_logs_in_with_a_password(self, layout: Deployed, door: Door, person: Person) -> None:
        assert Imaplib(door, person).folders() == {"INBOX"}
        assert layout.login(person.name).method == "PLAIN"

    def test_who_has_none_does_not_log_in_without_a_password(self, door: Door, person: Person) -> None:
        with pytest.raises(imaplib.IMAP4.error, match="Authentication failed"):
            authenticate(door, person, as_user=person.name)

    def test_one_of_another_authority_ends_the_handshake(
        self, layout: Deployed, door: Door, person: Person, site: Site
    ) -> None:
        with_certificate = attrs.evolve(person, certificate=site.servers.client(person.name))
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            Imaplib(door, with_certificate).session()
        layout.proxy.log.wait_for(re.compile(r".*certificate-refused.*"))


def authenticate(door: Door, person: Person, as_user: str) -> None:
    """By SASL EXTERNAL, and with that user's name besides."""
    connection = ImaplibConnection(door, person)
    try:
        connection.authenticate("EXTERNAL", lambda _: as_user.encode())
    finally:
        connection.shutdown()


class TestMutualTls:
    """From the proxy's own address."""

    @pytest.fixture
    def door(self, deployments: Deployments) -> Door:
        layout = deployments[MUTUAL_TLS]
        return layout.past_the_proxy(layout.dovecots[0].address, "tls")

    def test_who_shows_no_certificate_gets_no_login(self, door: Door, person: Person) -> None:
        with pytest.raises(imaplib.IMAP4.error, match="valid SSL certificate"):
            Imaplib(door, attrs.evolve(person, address="127.0.0.1")).session()


class TestStarttlsDemanded:
    def test_no_password_in_clear_text(self, deployments: Deployments, person: Person) -> None:
        door = deployments[STARTTLS_DEMANDED].door(CLEAR)
        with pytest.raises(imaplib.IMAP4.error, match="PRIVACYREQUIRED"):
            Imaplib(door, person).session()


class TestChain:
    """The proxy in front of itself."""

    @pytest.fixture
    def layout(self, deployments: Deployments) -> Deployed:
        return deployments[CHAIN]

    @pytest.mark.parametrize("name", ["mail.example.com", "localhost", "127.0.0.1"])
    def test_who_asks_for_another_name_or_none_gets_an_alert(
        self, layout: Deployed, person: Person, name: str
    ) -> None:
        door = attrs.evolve(layout.door(CHAIN.entrances[0]), name=name)
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            Imaplib(door, person).session()

    def test_who_sends_no_header_is_refused_behind_it(self, layout: Deployed, person: Person) -> None:
        door = layout.past_the_proxy(("127.0.0.1", layout.ports[143]))
        assert is_refused(person, attrs.evolve(door, header=b"a1 CAPABILITY\r\n"))
        layout.proxy.log.wait_for(re.compile(r".*header-missing.*"))

    def test_who_comes_from_elsewhere_is_refused_behind_it(
        self, site: Site, folder: Path, person: Person
    ) -> None:
        narrower = attrs.evolve(CHAIN, changes={'"127.0.0.0/8"': '"127.0.0.1/32"'})
        with deployed(narrower, site, folder) as layout:
            assert Imaplib(layout.door(CHAIN.entrances[0]), person).folders() == {"INBOX"}
            assert is_refused(person, layout.past_the_proxy(("127.0.0.1", layout.ports[143])))
            layout.proxy.log.wait_for(re.compile(r".*127\.0\.0\.9.*untrusted.*"))
