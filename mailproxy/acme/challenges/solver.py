"""What all challenges have in common."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from attrs import frozen


@frozen(kw_only=True)
class Proof:
    """What proves that the proxy has one name.

    Attributes:
        name: The name, without the ``*.`` of a wildcard.
        token: The authority's token.
        key_authorization: The token with the account's thumbprint.
    """

    name: str
    token: str
    key_authorization: str


class Solver(Protocol):
    """Answers one type of challenge."""

    @property
    def type(self) -> str:
        """The type, such as ``http-01``."""

    def answering(self, proofs: list[Proof]) -> AbstractAsyncContextManager[None]:
        """Answer the challenges of an order in the block, and clean up after it.

        Raises:
            AcmeError: If they cannot be answered.
        """
