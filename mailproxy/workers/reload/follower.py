"""A reload in a worker: it applies what the control process has checked and the supervisor uses already.

A worker that cannot follow exits with an error. The supervisor then forks another one, which begins with the
configuration.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

import trio
from attrs import define, field

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.config import Config
from mailproxy.config.difference import compare
from mailproxy.errors import ConfigError
from mailproxy.ipc.channel import Received
from mailproxy.ipc.files import read_value
from mailproxy.net.handover import adopt
from mailproxy.net.listener import BindPlace
from mailproxy.proxy.process import max_sessions
from mailproxy.proxy.reload.apply import Generation, apply_generation
from mailproxy.proxy.reload.preparation import Prepared, apply_staged, prepare
from mailproxy.proxy.service import Service
from mailproxy.proxy.supervise import log_failure
from mailproxy.workers.certificates import WorkerCertificates
from mailproxy.workers.control_client import ControlClient
from mailproxy.workers.messages import Message
from mailproxy.workers.parts import WorkerParts
from mailproxy.workers.reload.document import WorkerDocument
from mailproxy.workers.reload.messages import ApplyReload, ReloadSockets
from mailproxy.workers.scoreboard import Scoreboard

# The control process has loaded the same files a moment ago. If they are replaced just now, one may be there
# before the other.
_FILES_TIMEOUT_S = 5.0
_FILES_RETRY_S = 0.2


@define(eq=False)
class _Incoming:
    """A configuration that is being received.

    Attributes:
        document: The configuration.
        sockets: Those that have come so far, with their binds.
    """

    document: WorkerDocument
    sockets: list[tuple[BindPlace, socket.socket]] = field(factory=list)

    @property
    def is_complete(self) -> bool:
        return len(self.sockets) == len(self.document.places)

    def add(self, sockets: tuple[socket.socket, ...]) -> None:
        places = self.document.places[len(self.sockets) :]
        self.sockets += zip(places, sockets, strict=False)

    def close(self) -> None:
        for _, sock in self.sockets:
            sock.close()


@define(eq=False, kw_only=True)
class Follower:
    """Receives and applies configurations in a worker.

    Attributes:
        slot: The slot of this worker.
        service: Its service.
        client: Its channel to the control process.
        certificates: Its TLS files.
        parts: Makes what the service needs.
        scoreboard: The shared memory.
        on_failure: Called if it cannot follow.
    """

    slot: int
    service: Service
    client: ControlClient
    certificates: WorkerCertificates
    parts: WorkerParts
    scoreboard: Scoreboard
    on_failure: Callable[[], None]
    started: trio.Event = field(factory=trio.Event)
    _incoming: _Incoming | None = field(default=None, init=False)
    _lock: trio.Lock = field(factory=trio.Lock, init=False)

    def handle(self, received: Received[Message], tasks: trio.Nursery) -> bool:
        """Take a message of the supervisor. Return False if it is about something else."""
        if not isinstance(received.message, ApplyReload | ReloadSockets):
            return False
        try:
            self._receive(received.message, received)
        except Exception as error:  # noqa: BLE001 - as below; without descriptors, a message comes alone
            self._fail(error)
        else:
            if self._incoming is not None and self._incoming.is_complete:
                tasks.start_soon(self._apply_contained, self._incoming)
                self._incoming = None
        return True

    def _receive(self, message: ApplyReload | ReloadSockets, received: Received[Message]) -> None:
        if isinstance(message, ApplyReload):
            (file,) = received.files
            self._incoming = _Incoming(_read_document(file))
        elif self._incoming is not None:
            if len(received.sockets) != message.count:
                raise OSError(f"{len(received.sockets)} of {message.count} sockets have come")
            self._incoming.add(received.sockets)

    def _fail(self, error: Exception) -> None:
        log_failure(self.service.log, f"reload in worker {self.slot + 1}, which is replaced", error)
        self.on_failure()

    async def _apply_contained(self, incoming: _Incoming) -> None:
        """Apply a configuration, after those that came before. If that fails, have the worker exit."""
        try:
            async with self._lock:
                await self.started.wait()
                await self._apply(incoming)
        except Exception as error:  # noqa: BLE001 - the border: a mix of configurations must not go on
            incoming.close()
            self._fail(error)

    async def _apply(self, incoming: _Incoming) -> None:
        service, document = self.service, incoming.document
        config = await trio.to_thread.run_sync(partial(_load, document, service.config))
        async with self.certificates.lock:
            prepared = await self._prepare(config)
            if not service.is_serving:  # it drains, and accepts no more connections
                incoming.close()
                prepared.cancel()
                return
            apply_staged(config, prepared.store)
            self._use(config, incoming, prepared)
        self.client.announce_generation(document.generation)

    async def _prepare(self, config: Config) -> Prepared:
        """Load files again until the deadline, if they cannot be used at first."""
        load = partial(
            prepare,
            config,
            self.certificates.store,
            is_log_new=config.log != self.service.config.log,
            shares_log=True,
        )
        deadline = trio.current_time() + _FILES_TIMEOUT_S
        while True:
            try:
                return await trio.to_thread.run_sync(load)
            except ConfigError:
                if trio.current_time() > deadline:
                    raise
            await trio.sleep(_FILES_RETRY_S)

    def _use(self, config: Config, incoming: _Incoming, prepared: Prepared) -> None:
        """Use a configuration in one step, without a wait."""
        service, parts, store = self.service, self.parts, prepared.store
        self.scoreboard.reconfigure(config, incoming.document.workers)
        parts.use_counters(self.scoreboard.counters(self.slot))
        contexts = store.server_contexts
        servers = {name: parts.make_servers(table, contexts) for name, table in config.backends.items()}
        for name, addresses in incoming.document.document.addresses.items():
            for server in servers[name]:
                if server.name in addresses:
                    server.addresses, server.resolve_error = tuple(addresses[server.name]), ""
        handover = adopt(config, store.bind_terminators, incoming.sockets, service.listeners)
        reloader = CertificateReloader(config, store, stage=True) if store.files else None
        apply_generation(
            service,
            Generation(
                config=config,
                handover=handover,
                servers=servers,
                server_contexts=contexts,
                reloader=reloader,
                max_sessions=max_sessions(config),
                outputs=prepared.outputs,
            ),
            parts,
        )
        self.client.reconfigure(service.backends)
        self.certificates.reconfigure(
            reloader, service.backends.values(), interval=config.process.certificate_interval
        )


def _read_document(file: BinaryIO) -> WorkerDocument:
    with file:
        return WorkerDocument.unpack(read_value(file))


def _load(document: WorkerDocument, current: Config) -> Config:
    return compare(current, document.document.load(), can_change_workers=True).config
