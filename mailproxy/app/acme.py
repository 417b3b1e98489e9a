"""ACME beside a proxy: what is opened with privileges, the service that obtains certificates, and advice.

``mailproxy.acme`` is loaded only if the configuration has certificates to obtain.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import trio

from mailproxy.address import TcpAddress
from mailproxy.certificates.acme_status import AcmeStatus
from mailproxy.config import Acme, Config
from mailproxy.config.acme_plan import AcmePlan
from mailproxy.config.path import ConfigPath
from mailproxy.config.rules.acme_rules import acme_path
from mailproxy.display_path import display_path
from mailproxy.errors import Fault
from mailproxy.log import Log
from mailproxy.proxy.access import may_write_folder, unreadable_part
from mailproxy.proxy.acme_checks import named_files
from mailproxy.proxy.supervise import supervise
from mailproxy.workers.control.control import Control

if TYPE_CHECKING:
    from mailproxy.acme.challenges.http import HttpSocket
    from mailproxy.acme.service import AcmeService

_HELPER = "certificates by ACME"


class AcmeRunner:
    """Runs the ACME service beside a proxy.

    Args:
        config: The configuration at the start.
        owner: The user and group that sessions run as; None if there is no change of user.

    Attributes:
        service: The service; None while the configuration has nothing to obtain.
    """

    def __init__(self, config: Config, owner: tuple[int, int] | None) -> None:
        self.service: AcmeService | None = None
        self._changed = trio.Event()
        self._http: dict[TcpAddress, HttpSocket] = {}
        if config.acme:
            self._open(config, owner)

    def _open(self, config: Config, owner: tuple[int, int] | None) -> None:
        """Create storage folders, bind ports below 1024 and load modules, while this process has the privileges.

        What fails is tried again when it is needed. It must not keep the proxy from serving.
        """
        from mailproxy.acme.challenges.http import HttpSocket
        from mailproxy.acme.storage import Storage, StorageError

        # Now, because the user that sessions run as may not be allowed to read Python's folders.
        _import_service(config)
        for acme in config.acme.values():
            with contextlib.suppress(StorageError):
                Storage(acme.storage).prepare(owner)
            if isinstance(acme.http_address, TcpAddress):
                self._http[acme.http_address] = sock = HttpSocket(acme.http_address)
                with contextlib.suppress(OSError):
                    sock.bind()

    @property
    def statuses(self) -> Sequence[AcmeStatus]:
        """How the certificates are that are obtained: for lists, metrics and the status page."""
        return self.service.statuses if self.service is not None else ()

    def notice_reload(self) -> None:
        """Look at the configuration again."""
        self._changed.set()
        self._changed = trio.Event()

    async def run(self, config: Callable[[], Config], log: Log, scan: Callable[[], None]) -> None:
        """Obtain certificates until cancelled. Without any, wait for a reload that brings some.

        Args:
            config: Returns the configuration in use.
            log: The log.
            scan: Takes changed TLS files into use.
        """
        while not config().acme:
            await self._changed.wait()
        await supervise(log, _HELPER, self._run, config, log, scan)

    async def _run(self, config: Callable[[], Config], log: Log, scan: Callable[[], None]) -> None:
        if self.service is None:
            # In a thread: after a reload, that takes half a second, and sessions go on.
            make = await trio.to_thread.run_sync(_import_service, config())
            self.service = make(config, http=self._http, log=log, on_stored=scan)
        await self.service.run()

    async def run_beside(self, control: Control) -> None:
        """Obtain certificates in the control process, until cancelled, or until another proxy replaces this one."""
        control.on_reconfigured.append(self.notice_reload)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.run, lambda: control.config, control.log, control.scan_certificates)
            await control.handover.released.wait()
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Close the sockets of http-01."""
        for sock in self._http.values():
            sock.close()


def _import_service(config: Config) -> type[AcmeService]:
    from mailproxy.acme.service import AcmeService

    if any(acme.dns is not None for acme in config.acme.values()):
        import mailproxy.acme.challenges.dns  # noqa: F401 - loaded now, used by the solver
    return AcmeService


def advise_on_acme(config: Config) -> Iterator[Fault]:
    """Yield advice about ``[acme.NAME]``."""
    if not config.acme:
        return
    used = {each.acme.name for each in AcmePlan(config).certificates}
    for name, acme in config.acme.items():
        path = acme_path(name)
        if name not in used:
            yield Fault(
                path, f'is used by no frontend: give tls = {{ acme = "{name}", names = […] }}, or remove it'
            )
            continue
        yield from _advise_on_access(config, acme, path)
        yield from _advise_on_port(config, acme, path)


def _advise_on_access(config: Config, acme: Acme, path: ConfigPath) -> Iterator[Fault]:
    user = f"the user {config.process.user}" if config.process.user else "this user"
    try:
        if acme.storage.is_dir() and not may_write_folder(config.process, acme.storage):
            fact = f"{display_path(acme.storage)}: {user} cannot write there, so nothing can be renewed"
            yield Fault(path / "storage", fact)
        for key, file in named_files(acme):
            if (part := unreadable_part(config.process, file)) is not None:
                fact = f"{display_path(file)}: after the change of user it cannot be read, because of {part}"
                yield Fault(path.joinpath(*key), fact)
    except OSError:  # it is a fault already
        return


def _advise_on_port(config: Config, acme: Acme, path: ConfigPath) -> Iterator[Fault]:
    """Advise if a public authority probably cannot connect. A private one may use other ports."""
    if acme.ca is not None:
        return
    if acme.challenge == "tls-alpn-01":
        ports = {
            bind.address.port
            for frontend in config.frontends.values()
            for bind in frontend.bind
            if isinstance(bind.address, TcpAddress) and frontend.terminates_tls(bind)
        }
        if 443 not in ports:
            yield Fault(
                path / "challenge",
                "tls-alpn-01 is asked for at port 443, where no bind with mode tls listens: add one, or forward the port",
            )
    address = acme.http_address
    if isinstance(address, TcpAddress) and address.port != 80:
        yield Fault(
            path / "http", f"http-01 is asked for at port 80, and not at {address.port}: forward the port"
        )
