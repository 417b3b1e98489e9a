"""The advice about the configuration in use: that of the start, then that of each reload and of renewed TLS files."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

import trio

from mailproxy.admin.http.sockets import HttpListener
from mailproxy.admin.target import Target
from mailproxy.certificates.store import CertificateStore
from mailproxy.errors import Fault

_INTERVAL_S = 1.0
_NO_FILES = CertificateStore()


class CurrentAdvice:
    """Follows the configuration of a proxy.

    Args:
        target: The proxy.
        listener: Has the advice of the start, and gives that about later configurations.

    Attributes:
        faults: The advice about the configuration in use.
    """

    def __init__(self, target: Target, listener: HttpListener) -> None:
        self._target = target
        self._advise = listener.advise
        self._config, self._store = listener.advised
        self.faults: Sequence[Fault] = self._config.source_map.locate_all(listener.advice)

    async def run(self) -> None:
        """Ask for advice whenever the configuration or its TLS files have changed, until cancelled."""
        while True:
            config, store = self._target.config, self._target.certificate_store or _NO_FILES
            if config is not self._config or (
                store is not self._store and (store.files or self._store.files)
            ):
                self._config, self._store = config, store
                advise = partial(self._advise, config, store)
                # A file may be out of reach: privileges were dropped. Then the advice stays as it is.
                with contextlib.suppress(OSError):
                    advice = await trio.to_thread.run_sync(advise, abandon_on_cancel=True)
                    self.faults = config.source_map.locate_all(advice)
            await trio.sleep(_INTERVAL_S)
