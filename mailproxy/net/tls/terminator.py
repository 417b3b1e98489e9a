"""Where TLS of clients ends: the contexts of a bind, one for each set of certificates, chosen by the client's server name.

The name is known before the handshake begins, since the ClientHello was looked at. So OpenSSL asks nobody for it: a call
back into Python in the middle of each handshake would cost as much as a tenth of it.

Every context of a bind demands the same of clients: choosing by name changes the certificate only.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from mailproxy.config import FrontendTls
from mailproxy.net.tls.certificate import Certificate, CertificateIndex, Stamp, find, index_by_name, stamp_of
from mailproxy.net.tls.context import load_chain, set_parameters

CertificateSet = tuple[Certificate, ...]


@frozen
class CertificateSelection:
    """What a handshake is made with. ``certificates``: one of each kind of key, of which OpenSSL takes what fits."""

    context: ssl.SSLContext
    certificates: CertificateSet


@frozen
class _State:
    """What holds for handshakes that begin now; replaced as a whole, since renewing is another thread's."""

    choice: CertificateIndex
    contexts: Mapping[CertificateSet, ssl.SSLContext]
    demands: tuple[Stamp | None, ...]
    default: CertificateSelection | None
    by_name: Mapping[str, CertificateSelection]

    @classmethod
    def of(
        cls,
        choice: CertificateIndex,
        contexts: Mapping[CertificateSet, ssl.SSLContext],
        demands: tuple[Stamp | None, ...],
    ) -> _State:
        """With what is looked up in every handshake made ready."""
        offers = {together: CertificateSelection(context, together) for together, context in contexts.items()}
        by_name = {name: offers[together] for name, together in choice.by_name.items()}
        return cls(choice, contexts, demands, offers[choice.default], by_name)


def _identity(certificate: Certificate) -> tuple[object, ...]:
    """What stays when a certificate is renewed."""
    return certificate.path, certificate.key, certificate.names, certificate.key_type


class Terminator:
    """The TLS of a bind."""

    def __init__(self, tls: FrontendTls, certificates: Sequence[Certificate]) -> None:
        """Raises OSError or ssl.SSLError (an OSError too) if a certificate, its key, the CA or the CRL is no good, TlsKeyError for
        other keys.
        """
        self._tls = tls
        self._state = _State(index_by_name(()), {}, (), None, {})
        self.renew(certificates)

    def select(self, name: str | None) -> CertificateSelection | None:
        """What a client gets that asks for this name, None for no name; None if it is refused (``strict_sni``)."""
        state = self._state
        return find(state.by_name, name) or (None if self._tls.strict_sni else state.default)

    def renew(self, certificates: Sequence[Certificate]) -> None:
        """Take up certificates, CA and CRL as they are now. Sessions and unchanged certificates keep their context.

        Raises as the constructor does, and then nothing has changed.
        """
        old, choice = self._state, index_by_name(certificates)
        demands = self._client_auth_stamps()
        known = old.contexts if demands == old.demands else {}
        contexts = {
            together: known[together] if together in known else self._make(together)
            for together in {choice.default, *choice.by_name.values()}
        }
        self._state = _State.of(choice, contexts, demands)

    def stage(self, certificates: Sequence[Certificate]) -> Callable[[], None]:
        """As ``renew``, where tickets of TLS are to go on: they are good in other processes as long as the context stays.

        Raises as the constructor does. What is returned takes up what is new; it must be called where handshakes begin, since
        a context that several threads use cannot be changed. Certificates that are renewed, for the same names and of the
        same kind of key, are loaded into the context of those before; handshakes that have begun have copies of the old ones.
        """
        old, choice = self._state, index_by_name(certificates)
        demands = self._client_auth_stamps()
        known = old.contexts if demands == old.demands else {}
        before = {tuple(map(_identity, together)): context for together, context in known.items()}
        contexts: dict[CertificateSet, ssl.SSLContext] = {}
        renewed: list[CertificateSet] = []
        for together in {choice.default, *choice.by_name.values()}:
            # Also where it is only to find out whether that works.
            fresh = known.get(together) or self._make(together)
            kept = before.get(tuple(map(_identity, together)))
            if together not in known and kept is not None:
                renewed.append(together)
            contexts[together] = kept or fresh

        def take_up() -> None:
            for together in renewed:
                for certificate in together:
                    load_chain(contexts[together], certificate)
            self._state = _State.of(choice, contexts, demands)

        return take_up

    def _client_auth_stamps(self) -> tuple[Stamp | None, ...]:
        return tuple(stamp_of(file) if file else None for file in (self._tls.client_ca, self._tls.client_crl))

    def _make(self, certificates: CertificateSet) -> ssl.SSLContext:
        tls = self._tls
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        set_parameters(context, tls)
        # A ticket costs some 15 µs. One is what a client needs to come back with, and it brings the next one.
        context.num_tickets = 1 if tls.tickets else 0
        if tls.alpn:
            context.set_alpn_protocols(list(tls.alpn))
        if tls.client_verify != "none":
            context.verify_mode = ssl.CERT_REQUIRED if tls.client_verify == "required" else ssl.CERT_OPTIONAL
            context.load_verify_locations(tls.client_ca)
        if tls.client_crl is not None:
            context.load_verify_locations(tls.client_crl)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
        for certificate in certificates:  # one of each kind of key: OpenSSL takes what the client can verify
            load_chain(context, certificate)
        return context
