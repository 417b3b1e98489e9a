"""tls-alpn-01 (RFC 8737): the binds answer, in every process, with a certificate from the storage.

The answer is a file, and no message. So every worker has it, also one that is forked meanwhile, and so has
each machine that shares the storage: a load balancer may send the authority to any of them. It also lets
``mailproxy certs obtain`` use the binds of the running proxy. ``mailproxy.certificates.challenge`` reads it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio
from attrs import frozen

from mailproxy.acme.challenges.solver import Proof
from mailproxy.acme.keys import make_challenge_certificate
from mailproxy.acme.storage import Storage


@frozen
class TlsAlpnSolver:
    """Answers tls-alpn-01.

    Attributes:
        storage: The storage whose folder ``challenges`` the binds read.
    """

    storage: Storage
    type: str = "tls-alpn-01"

    @contextlib.asynccontextmanager
    async def answering(self, proofs: list[Proof]) -> AsyncIterator[None]:
        """Have the binds answer in the block."""
        try:
            await trio.to_thread.run_sync(self._write, proofs)
            yield
        finally:
            # Left over, they would answer nothing that the authority asks again.
            with contextlib.suppress(Exception):
                for proof in proofs:
                    self.storage.remove(_file(proof))

    def _write(self, proofs: list[Proof]) -> None:
        for proof in proofs:
            self.storage.write(_file(proof), make_challenge_certificate(proof.name, proof.key_authorization))


def _file(proof: Proof) -> str:
    return f"challenges/{proof.name}.pem"
