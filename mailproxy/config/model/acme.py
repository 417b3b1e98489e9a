"""The tables of ``[acme.NAME]``: where certificates come from, and how the proxy proves that it has the names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attrs import frozen

from mailproxy.address import BindAddress, ServerAddress, TcpAddress
from mailproxy.config.model.setting import setting
from mailproxy.config.values import HostName, PositiveSeconds, RenewBefore, Text, WebUrl

KeyType = Literal["ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096"]
Challenge = Literal["http-01", "tls-alpn-01", "dns-01"]
TsigAlgorithm = Literal["hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224", "hmac-sha1"]

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
LETS_ENCRYPT_STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"


@frozen(kw_only=True)
class Rfc2136:
    """Dynamic updates of a DNS zone (RFC 2136), signed with a TSIG key (RFC 8945)."""

    server: ServerAddress = setting("name server that takes the updates, such as 192.0.2.53 or [::1]:5353")
    zone: HostName = setting("the zone to update")
    key_name: HostName = setting("name of the TSIG key")
    key_file: Path = setting("file with the key's secret in base64, or a key file of BIND")
    algorithm: TsigAlgorithm = setting("algorithm of the TSIG key", "hmac-sha256")


@frozen(kw_only=True)
class AcmeDns:
    """How TXT records for `dns-01` are added and removed.

    Either `hook` or `rfc2136` is required for the challenge `dns-01`.
    """

    hook: Path | None = setting(
        "program that adds and removes TXT records",
        None,
        details="It is called as `HOOK add|remove _acme-challenge.NAME VALUE`. Exit code 0 means that the record is "
        "added or removed.",
    )
    rfc2136: Rfc2136 | None = setting("updates of a zone", None)
    resolvers: tuple[ServerAddress, ...] = setting(
        "name servers that must see a TXT record before the authority is asked",
        (),
        details="Without them, the servers of the zone itself are asked.",
    )
    propagation_timeout: PositiveSeconds = setting(
        "how long a TXT record may take to be seen", PositiveSeconds(120.0)
    )


@frozen(kw_only=True)
class AcmeEab:
    """The external account binding, with which an authority knows its customer (RFC 8555 section 7.3.4)."""

    key_id: Text = setting("the key identifier that the authority has given you")
    hmac_file: Path = setting("file with the HMAC key in base64url, as the authority has given it")


@frozen(kw_only=True)
class Acme:
    """An authority that issues certificates by ACME (RFC 8555), and how they are obtained and stored.

    A frontend uses it with `tls = { acme = "NAME", names = [...] }`.
    """

    name: Text = setting("the table's name")
    directory: WebUrl = setting("URL of the authority's directory", WebUrl(LETS_ENCRYPT))
    staging: WebUrl | None = setting(
        "URL of the directory that `mailproxy certs test` uses",
        None,
        default_text="Let's Encrypt's staging for Let's Encrypt, else `directory`",
    )
    ca: Path | None = setting(
        "PEM file with the CA of the directory's own certificate", None, default_text="the public CAs"
    )
    contact: tuple[Text, ...] = setting("addresses of the account, such as mailto:postmaster@example.org", ())
    terms_agreed: bool = setting("you agree to the authority's terms of service; must be true", False)
    keys: tuple[KeyType, ...] = setting("key types; one certificate for each", ("ecdsa-p256",))
    challenge: Challenge = setting(
        "how the proxy proves that it has the names",
        "tls-alpn-01",
        details="For `tls-alpn-01` the authority connects to port 443, and the binds with mode `tls` answer. For "
        "`http-01` it connects to port 80, and a listener at `http` answers, or a web server with files in `webroot`. "
        "`dns-01` needs `dns`, and is the only one for wildcards.",
    )
    http: BindAddress | None = setting(
        "address of the listener for `http-01`, open only while a certificate is obtained",
        None,
        default_text='"*:80" without `webroot`',
    )
    webroot: Path | None = setting("folder that a web server shows, in which `http-01` is answered", None)
    dns: AcmeDns | None = setting("how `dns-01` is answered", None)
    storage: Path = setting(
        "folder for account, keys and certificates; private to the user that sessions run as"
    )
    renew_before: RenewBefore = setting(
        "how long before its end a certificate is renewed",
        "auto",
        details="`auto` asks the authority (ARI, RFC 9773). If it does not say, a third of the lifetime is left.",
    )
    eab: AcmeEab | None = setting("external account binding, if the authority needs one", None)
    until_ready: Literal["self-signed", "refuse"] = setting(
        "what clients get before the first certificate: a self-signed one, or a closed connection",
        "self-signed",
    )
    preferred_chain: Text | None = setting(
        "common name of an issuer; the chain that has it is used, if the authority offers several", None
    )
    profile: Text | None = setting("the authority's profile, such as shortlived", None)
    reuse_key: bool = setting("keep the key over renewals, for TLSA records", False)
    next_key: bool = setting(
        "make the key of the next certificate ahead, so that its TLSA record can be published", False
    )
    certificate_per_name: bool = setting("one certificate for each name, not one for all", False)

    @property
    def http_address(self) -> BindAddress | None:
        """Where the listener for ``http-01`` opens; None if there is none."""
        if self.challenge != "http-01" or self.webroot is not None:
            return None
        return self.http or TcpAddress("*", 80)

    @property
    def test_directory(self) -> str:
        """The directory for a test that changes nothing."""
        if self.staging is not None:
            return self.staging
        return LETS_ENCRYPT_STAGING if self.directory == LETS_ENCRYPT else self.directory
