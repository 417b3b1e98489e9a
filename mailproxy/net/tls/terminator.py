"""The TLS of a bind: one context for each set of certificates, selected by the client's server name.

The name is known before the handshake begins, because the ClientHello was peeked at. So OpenSSL needs no
callback to select a context: a call back into Python in the middle of each handshake would cost up to a tenth
of it.

All contexts of a bind verify clients in the same way: the server name selects the certificate only.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from mailproxy.config import FrontendTls
from mailproxy.net.tls.certificate import (
    Certificate,
    CertificateIndex,
    Stamp,
    file_stamp,
    find,
    index_by_name,
)
from mailproxy.net.tls.context import load_chain, set_parameters
from mailproxy.net.tls.kernel import OP_ENABLE_KTLS
from mailproxy.net.tls.openssl import disable_auto_chain

CertificateSet = tuple[Certificate, ...]
"""The certificates of one context: one for each key type, of which OpenSSL uses what the client supports."""

Contexts = Mapping[CertificateSet, ssl.SSLContext]


@frozen
class CertificateSelection:
    """What a handshake uses.

    Attributes:
        context: The context.
        certificates: Its certificates.
        may_use_kernel: Whether the context lets the kernel encrypt.
        is_refused: Whether the client is closed without a handshake, because there is no certificate yet.
    """

    context: ssl.SSLContext
    certificates: CertificateSet
    is_refused: bool = False
    may_use_kernel: bool = False


@frozen
class _State:
    """What new handshakes use. Another thread reloads, so this is replaced as a whole and never changed.

    Attributes:
        index: The certificates by server name.
        contexts: The context of each set of certificates.
        client_auth_stamps: The stamps of the client CA and the revocation list that the contexts were made
            with.
        default: For clients without SNI, or with an unknown name. None before the first certificate.
        by_name: For known server names.
    """

    index: CertificateIndex
    contexts: Contexts
    client_auth_stamps: tuple[Stamp | None, ...]
    default: CertificateSelection | None
    by_name: Mapping[str, CertificateSelection]

    @classmethod
    def of(
        cls, index: CertificateIndex, contexts: Contexts, client_auth_stamps: tuple[Stamp | None, ...]
    ) -> _State:
        """Make a state with the selections that each handshake looks up."""
        selections = {
            certificates: CertificateSelection(
                context,
                certificates,
                is_refused=any(each.placeholder == "refuse" for each in certificates),
                may_use_kernel=bool(context.options & OP_ENABLE_KTLS),
            )
            for certificates, context in contexts.items()
        }
        by_name = {name: selections[certificates] for name, certificates in index.by_name.items()}
        return cls(index, contexts, client_auth_stamps, selections[index.default], by_name)


class Terminator:
    """Terminates the TLS of a bind: holds its contexts and selects one for each client.

    Args:
        tls: The ``tls`` table of the bind.
        certificates: The certificates to serve. The first one is the default.

    Attributes:
        challenges: The names that an authority may validate here by tls-alpn-01, each with the folder that has
            the answer; None without ACME.

    Raises:
        OSError: If a certificate, its key, the client CA or the revocation list cannot be read or used (also
            as ``ssl.SSLError``).
        TlsKeyError: If another key of the table has an unsupported value.
    """

    def __init__(self, tls: FrontendTls, certificates: Sequence[Certificate]) -> None:
        self._tls = tls
        self.challenges: Mapping[str, Path] | None = None
        self._state = _State(index_by_name(()), {}, (), None, {})
        self.reload(certificates)

    def select(self, name: str | None) -> CertificateSelection | None:
        """Return what a client gets that asks for a server name, None for no name.

        Returns:
            None if the client is rejected (``strict_sni``).
        """
        state = self._state
        return find(state.by_name, name) or (None if self._tls.strict_sni else state.default)

    def reload(self, certificates: Sequence[Certificate]) -> None:
        """Use these certificates, and the client CA and revocation list as they are now, for new handshakes.

        Open sessions and unchanged sets of certificates keep their context.

        Raises:
            OSError, TlsKeyError: As the constructor. Then nothing has changed.
        """
        index = index_by_name(certificates)
        client_auth_stamps = self._client_auth_stamps()
        reusable = self._reusable_contexts(client_auth_stamps)
        contexts = {
            certificate_set: reusable.get(certificate_set) or self._make_context(certificate_set)
            for certificate_set in {index.default, *index.by_name.values()}
        }
        self._state = _State.of(index, contexts, client_auth_stamps)

    def stage(self, certificates: Sequence[Certificate]) -> Callable[[], None]:
        """Prepare a reload that keeps contexts, and with them the keys of TLS session tickets.

        Processes that were forked with the same context accept each other's tickets, as long as they keep it.
        So a renewed certificate (same file, names and key type) is loaded into the context of its
        predecessor. Handshakes that have begun use their copy of the old one.

        Returns:
            A function that takes the changes into use. It must be called in the thread where handshakes
            begin, because a context in use by several threads cannot be changed. It raises OSError.

        Raises:
            OSError, TlsKeyError: As the constructor. Then nothing has changed.
        """
        index = index_by_name(certificates)
        client_auth_stamps = self._client_auth_stamps()
        reusable = self._reusable_contexts(client_auth_stamps)
        predecessors = {
            tuple(map(_identity, certificate_set)): context for certificate_set, context in reusable.items()
        }
        contexts: dict[CertificateSet, ssl.SSLContext] = {}
        renewed: list[CertificateSet] = []
        for certificate_set in {index.default, *index.by_name.values()}:
            # A new context is made even if it is not used: that tells whether the certificates can be loaded.
            context = reusable.get(certificate_set) or self._make_context(certificate_set)
            predecessor = predecessors.get(tuple(map(_identity, certificate_set)))
            if certificate_set not in reusable and predecessor is not None:
                renewed.append(certificate_set)
            contexts[certificate_set] = predecessor or context

        def apply() -> None:
            for certificate_set in renewed:
                for certificate in certificate_set:
                    load_chain(contexts[certificate_set], certificate)
            self._state = _State.of(index, contexts, client_auth_stamps)

        return apply

    def _reusable_contexts(self, client_auth_stamps: tuple[Stamp | None, ...]) -> Contexts:
        """Return the contexts in use, none if the client CA or the revocation list has changed."""
        return self._state.contexts if client_auth_stamps == self._state.client_auth_stamps else {}

    def _client_auth_stamps(self) -> tuple[Stamp | None, ...]:
        return tuple(
            file_stamp(file) if file else None for file in (self._tls.client_ca, self._tls.client_crl)
        )

    def _make_context(self, certificates: CertificateSet) -> ssl.SSLContext:
        tls = self._tls
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        set_parameters(context, tls)
        disable_auto_chain(context)
        # A ticket costs about 15 µs. One is what a client needs to resume, and each resumption brings the
        # next one.
        context.num_tickets = 1 if tls.tickets else 0
        if tls.alpn:
            context.set_alpn_protocols(list(tls.alpn))
        if tls.client_verify != "none":
            context.verify_mode = ssl.CERT_REQUIRED if tls.client_verify == "required" else ssl.CERT_OPTIONAL
            context.load_verify_locations(tls.client_ca)
        if tls.client_crl is not None:
            context.load_verify_locations(tls.client_crl)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
        for certificate in certificates:
            load_chain(context, certificate)
        return context


def _identity(certificate: Certificate) -> tuple[object, ...]:
    """Return what a renewed certificate has in common with its predecessor."""
    return certificate.path, certificate.key, certificate.names, certificate.key_type
