"""The tables ``tls``: towards clients and towards servers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attrs import frozen

from mailproxy.config.model.setting import setting
from mailproxy.config.values import AlpnName, CertificateNames, HostName, Name, ServerTlsMode, Text

TlsVersion = Literal["1.2", "1.3"]

_CIPHERS = "TLS 1.2 ciphers, as an OpenSSL cipher list"
_CIPHERSUITES = "TLS 1.3 cipher suites, with OpenSSL's names; needs Python 3.15"
_CURVES = 'groups of the key exchange, such as "X25519:P-256"; several need Python 3.15'


@frozen(kw_only=True)
class CertificateFiles:
    """A certificate of the proxy, or a folder of certificates."""

    certificate: Path = setting("PEM file with the certificate and its chain, or a folder of such files")
    key: Path | None = setting(
        "PEM file with the private key; not for a folder",
        None,
        default_text="in the certificate's file, else beside it",
    )


@frozen(kw_only=True)
class FrontendTls:
    """TLS towards clients."""

    certificates: tuple[CertificateFiles, ...] = setting(
        "PEM files, or folders of them",
        (),
        details="The client's server name selects the certificate. The first one is the default.",
    )
    acme: Name | None = setting("the `[acme.NAME]` table whose authority issues certificates", None)
    names: CertificateNames | None = setting(
        "the DNS names of these certificates; routes: those of the frontend's routes", None
    )
    key: Path | None = setting(
        "private key of the only certificate file",
        None,
        details="With several certificates, give each its own `key`.",
    )
    client_ca: Path | None = setting("PEM file with the CAs that issue client certificates", None)
    client_crl: Path | None = setting(
        "PEM file with the revocation list of each CA in the client's chain", None
    )
    client_verify: Literal["none", "optional", "required"] = setting(
        "whether clients are asked for a certificate",
        "none",
        details="With `optional`, a client may have no certificate. An invalid one ends the handshake.",
    )
    min_version: TlsVersion = setting("lowest TLS version", "1.2")
    max_version: TlsVersion | None = setting("highest TLS version", None, default_text="OpenSSL's")
    ciphers: Text | None = setting(_CIPHERS, None, default_text="OpenSSL's DEFAULT")
    ciphersuites: Text | None = setting(_CIPHERSUITES, None, default_text="OpenSSL's")
    curves: Text | None = setting(_CURVES, None, default_text="OpenSSL's")
    tickets: bool = setting("give clients session tickets, with which their next handshake is shorter", True)
    ktls: bool = setting(
        "have the kernel encrypt what clients get, if it can",
        False,
        details="Bulk from clear servers is then not copied into the process. A client that asks for new keys "
        "during the session ends it, unless kernel and OpenSSL support that.",
    )
    alpn: tuple[AlpnName, ...] = setting("application protocols to offer", ())
    strict_sni: bool = setting(
        "reject clients that send no server name, or one that no certificate has", False
    )


@frozen(kw_only=True)
class ServerTls:
    """TLS towards servers."""

    mode: ServerTlsMode = setting(
        "TLS from the first byte (implicit), or after STARTTLS on a clear port",
        "implicit",
        details="`starttls` needs a mail protocol. A server that does not offer STARTTLS is not used in clear text.",
    )
    verify: Literal["required", "chain", "none"] = setting(
        "verify chain and name (required), the chain alone, or nothing", "required"
    )
    ca: Path | None = setting("PEM file with the CA", None, default_text="the system's")
    server_name: HostName | None = setting(
        "the name to send as SNI and to verify", None, default_text="the address's host"
    )
    certificate: Path | None = setting("PEM file with a client certificate and its chain", None)
    key: Path | None = setting("private key of the client certificate, if its file has none", None)
    min_version: TlsVersion = setting("lowest TLS version", "1.2")
    max_version: TlsVersion | None = setting("highest TLS version", None, default_text="OpenSSL's")
    ciphers: Text | None = setting(_CIPHERS, None, default_text="OpenSSL's DEFAULT")
    ciphersuites: Text | None = setting(_CIPHERSUITES, None, default_text="OpenSSL's")
    curves: Text | None = setting(_CURVES, None, default_text="OpenSSL's")
    tickets: bool = setting("ask servers for session tickets of TLS 1.2; in TLS 1.3 servers decide", True)
