"""A reload in the control process: it checks a configuration, and has the other processes use it.

The supervisor decides, because workers are forked with what it has. Before it has answered, nothing changes in
any process. Afterwards this process follows, as the workers do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio
from attrs import define, field, frozen

from mailproxy.certificates.store import CertificateStore
from mailproxy.certificates.watcher import log_renewed
from mailproxy.config import Config
from mailproxy.config.difference import Difference, compare
from mailproxy.config.loader import load_bytes, read_bytes
from mailproxy.errors import ConfigError, Fault
from mailproxy.ipc.channel import Channel, Received
from mailproxy.ipc.files import read_value, write_value
from mailproxy.log import Log
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.factory import make_servers
from mailproxy.proxy.monitor import ServerMonitor
from mailproxy.proxy.reload.preparation import (
    Prepared,
    apply_staged,
    certificate_changes,
    prepare,
    resolve_new_names,
)
from mailproxy.proxy.reload.result import Reload, ReloadHistory, Trigger
from mailproxy.proxy.supervise import log_failure
from mailproxy.workers.control.registry import WorkerRegistry
from mailproxy.workers.messages import Message
from mailproxy.workers.reload.document import Addresses, Commit, ReloadDocument, unpack_answer
from mailproxy.workers.reload.messages import ReloadAnswer, ReloadProgress, RequestReload
from mailproxy.workers.scoreboard import ProcessCounters

_SETTLED_TIMEOUT_S = 10.0  # for a control process that replaces another one
_WORKERS_TIMEOUT_S = 15.0  # for all workers to follow, also those that are forked now


@frozen(kw_only=True)
class NextConfiguration:
    """A configuration that the supervisor uses, for the control process to use as well."""

    config: Config
    prepared: Prepared
    addresses: Addresses
    commit: Commit


@define(eq=False, kw_only=True)
class ReloadLeader:
    """Makes the reloads of all processes, one at a time.

    Attributes:
        log: The log.
        registry: The workers.
        monitor: Has the TLS files.
        backends: The backends in use.
        counters: Those of the control process, where the reloads are counted beyond its death.
        supervisor: The channel to the supervisor.
        wake_supervisor: Has the supervisor read that channel.
        config: Returns the configuration in use.
        settled: Set when this process knows the state of servers: soon after its start.
        is_stopping: Returns whether the proxy stops.
        use: Uses a configuration in the control process, in one step.
        on_failure: Called if that has failed.
    """

    log: Log
    registry: WorkerRegistry
    monitor: ServerMonitor
    backends: Mapping[str, Backend]
    counters: ProcessCounters
    supervisor: Channel[Message]
    wake_supervisor: Callable[[], None]
    config: Callable[[], Config]
    settled: trio.Event
    is_stopping: Callable[[], bool]
    use: Callable[[NextConfiguration], None]
    on_failure: Callable[[], None]
    history: ReloadHistory = field(init=False)
    _lock: trio.Lock = field(factory=trio.Lock, init=False)
    _number: int = field(default=0, init=False)
    _answered: trio.Event = field(factory=trio.Event, init=False)
    _answer: Any = field(default=None, init=False)
    _worker_changed: trio.Event = field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        counters = self.counters
        self.history = ReloadHistory(
            self.log, made=counters.configurations.local, failed=counters.refused.local
        )

    async def reload_file(self, trigger: Trigger) -> Reload:
        """Read the configuration file again and use it in all processes.

        The result is logged.

        Raises:
            ConfigError: With every fault. Nothing has changed then, except that renewed TLS files are taken
                into use.
        """
        if trigger != "SIGHUP":  # of which the supervisor knows
            self._notify_supervisor(ReloadProgress(is_running=True))
        try:
            async with self._lock:
                reloaded = await self._reload_contained()
            self.history.succeed(reloaded, trigger)
        except ConfigError as error:
            self.history.fail(error, trigger)
            self.monitor.scan_certificates()
            raise
        finally:
            self.counters.configurations.local = self.history.made
            self.counters.refused.local = self.history.failed
            self._notify_supervisor(ReloadProgress(is_running=False))
        return reloaded

    async def _reload_contained(self) -> Reload:
        try:
            return await self._reload()
        except (OSError, RuntimeError) as error:  # no descriptors, or no thread
            raise self.config().error([Fault("", f"cannot be used: {error}")]) from error

    async def _reload(self) -> Reload:
        with trio.move_on_after(_SETTLED_TIMEOUT_S):
            await self.settled.wait()
        started_at = trio.current_time()
        self._check_serving()
        source = self.config().source
        data, config = await trio.to_thread.run_sync(_load, source)
        difference = compare(self.config(), config, can_change_workers=True)
        async with self.monitor.certificate_lock:
            reloader = self.monitor.reloader
            previous = reloader.store if reloader is not None else CertificateStore()
            prepared = await self._prepare(difference.config, previous)
            try:
                addresses = await self._resolve(difference.config, prepared)
                document = ReloadDocument(text=data.decode(), source=source, addresses=addresses)
                commit = await self._request(document)
            except BaseException:
                prepared.cancel()
                raise
            self._follow(
                NextConfiguration(
                    config=difference.config, prepared=prepared, addresses=addresses, commit=commit
                )
            )
        await self._wait_for_workers(commit)
        log_renewed(self.log, prepared.renewed)
        return _describe(difference, previous, prepared, started_at)

    def _check_serving(self) -> None:
        if self.is_stopping() or not self.settled.is_set():
            raise self.config().error([Fault("", "cannot be used: the proxy is starting or stopping")])

    async def _prepare(self, config: Config, previous: CertificateStore) -> Prepared:
        is_log_new = config.log != self.config().log
        return await trio.to_thread.run_sync(
            partial(prepare, config, previous, is_log_new=is_log_new, shares_log=True)
        )

    async def _resolve(self, config: Config, prepared: Prepared) -> Addresses:
        """Return the addresses of new host names."""
        contexts = prepared.store.server_contexts
        servers = {name: make_servers(table, contexts) for name, table in config.backends.items()}
        known = {server: server.addresses for each in servers.values() for server in each}
        await resolve_new_names(config, servers, self.backends)
        return {
            name: {each.name: each.endpoints for each in made if each.addresses != known[each]}
            for name, made in servers.items()
        }

    # The supervisor

    async def _request(self, document: ReloadDocument) -> Commit:
        """Have the supervisor use a configuration.

        The supervisor may use it from the moment on in which it is sent, so nothing cancels the wait.
        """
        self._check_serving()
        self._number += 1
        self._answered = trio.Event()
        with write_value(document.pack()) as file:
            if not self.supervisor.try_send(RequestReload(self._number), file):
                raise self.config().error([Fault("", "cannot be used: the supervisor does not answer")])
        self.wake_supervisor()
        with trio.CancelScope(shield=True):
            await self._answered.wait()
        return unpack_answer(self._answer)

    def on_answer(self, received: Received[Message]) -> None:
        """Take the answer of the supervisor."""
        with received.files[0] as file:
            if isinstance(received.message, ReloadAnswer) and received.message.number == self._number:
                self._answer = read_value(file)
                self._answered.set()

    def on_supervisor_gone(self) -> None:
        """End the wait for an answer that will not come."""
        self._answer = {
            "source": "",
            "faults": [("", "cannot be used: the supervisor is gone", None, None, "")],
        }
        self._answered.set()

    def _notify_supervisor(self, message: Message) -> None:
        if self.supervisor.try_send(message):
            self.wake_supervisor()

    # The other processes

    def _follow(self, new: NextConfiguration) -> None:
        """Use the configuration here. If that fails, the control process exits and is replaced."""
        try:
            apply_staged(new.config, new.prepared.store)
            self.use(new)
        except Exception as error:  # noqa: BLE001 - the border: a mix of configurations must not go on
            log_failure(self.log, "reload in the control process, which is replaced", error)
            self.on_failure()

    def on_worker_changed(self) -> None:
        """Take note that a worker has registered, is ready, or uses another configuration."""
        self._worker_changed.set()

    async def _wait_for_workers(self, commit: Commit) -> None:
        """Wait until as many workers as there are to be serve with the configuration, up to a timeout."""
        with trio.move_on_after(_WORKERS_TIMEOUT_S):
            while self._count_followers(commit.generation) < commit.serving:
                self._worker_changed = trio.Event()
                await self._worker_changed.wait()
            return
        missing = commit.serving - self._count_followers(commit.generation)
        late = TimeoutError(
            f"{missing} of {commit.serving} workers have not followed in {_WORKERS_TIMEOUT_S:g} s"
        )
        log_failure(self.log, "reload in the workers", late)

    def _count_followers(self, generation: int) -> int:
        return sum(
            worker.generation >= generation and worker.is_ready and not worker.is_leaving
            for worker in self.registry.workers
        )


def _load(source: str) -> tuple[bytes, Config]:
    data = read_bytes(source)
    return data, load_bytes(data, folder=Path(source).parent, source=source)


def _describe(
    difference: Difference, previous: CertificateStore, prepared: Prepared, started_at: float
) -> Reload:
    return Reload(
        changes=(*difference.changes, *certificate_changes(previous, prepared.store)),
        needs_restart=difference.needs_restart,
        ms=round((trio.current_time() - started_at) * 1000),
    )
