"""The proxy as a process: in the foreground until a signal stops it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Sequence

import trio
from attrs import frozen

from mailproxy.admin.control_target import ControlAdministration
from mailproxy.admin.handover.single_giver import SingleGiver
from mailproxy.app.acme import AcmeRunner
from mailproxy.app.api import OpenedProcess, open_service
from mailproxy.app.inheritance import Inheritance, inherit
from mailproxy.app.pid_file import pid_file
from mailproxy.app.privileges import configured_owner, drop_privileges
from mailproxy.app.startup import load_and_check, open_all
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.errors import ConfigError
from mailproxy.log.events import DESCRIPTORS_SHORT
from mailproxy.net.listener import close_slots
from mailproxy.net.notify import (
    notify_alive,
    notify_draining,
    notify_handed_over,
    notify_stopping,
    watchdog_interval,
)
from mailproxy.net.passing.sockets import PassedSocket
from mailproxy.proxy.host_checks import check_capabilities
from mailproxy.proxy.process import (
    descriptor_shortage,
    fill_standard_descriptors,
    log_unraisable_errors,
    raise_descriptor_limit,
    tune_gc,
    worker_count,
)
from mailproxy.proxy.reload.single import reload_file
from mailproxy.proxy.service import log_handover_failed
from mailproxy.proxy.signals import SIGNALS, SignalAction, log_ignored, log_stopping, signal_action
from mailproxy.proxy.single_process import SingleProcess
from mailproxy.proxy.supervise import contained, supervise
from mailproxy.workers.control.control import Control
from mailproxy.workers.supervisor import run_supervisor


def run(config: Config, *, replaces: bool = False) -> None:
    """Run in the foreground until a signal stops it, in one process or as the supervisor of several.

    What the signals mean is in `mailproxy.proxy.signals`.

    Args:
        config: The configuration.
        replaces: Whether to take the listening sockets over from the running instance.

    Raises:
        ConfigError: Before anything is served, with every fault of files, addresses and names.
    """
    fill_standard_descriptors()
    raise_descriptor_limit(config)
    store = load_and_check(config)
    inheritance = inherit(config, replaces=replaces)
    try:
        if worker_count(config) > 1:
            _run_workers(config, store, inheritance)
        else:
            _run_single_process(config, store, inheritance)
    finally:
        inheritance.cancel()


def _run_single_process(config: Config, store: CertificateStore, inheritance: Inheritance) -> None:
    opened = open_service(
        config, store, owner=configured_owner(config), passed=inheritance.passed, state=inheritance.state
    )
    log = opened.process.service.log
    inheritance.log_events(log)
    with contextlib.closing(opened), pid_file(config, inheritance):
        drop_privileges(config)
        check_capabilities(config)
        log_unraisable_errors(log)
        # Signals wait until the receiver is open, and for ever at the end: a late one would spoil the exit code.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        tune_gc()
        if (shortage := descriptor_shortage(config)) is not None:
            log.event(DESCRIPTORS_SHORT, f"process.max_sessions: {shortage}")
        trio.run(_serve, opened, inheritance)


def _run_workers(config: Config, store: CertificateStore, inheritance: Inheritance) -> None:
    owner = configured_owner(config)
    opened = open_all(
        config,
        store,
        workers=worker_count(config),
        owner=owner,
        passed=inheritance.passed,
    )
    acme = AcmeRunner(config, owner)
    try:
        with pid_file(config, inheritance):
            drop_privileges(config)
            check_capabilities(config)
            inheritance.use(opened.slots, opened.admin)
            run_supervisor(
                config,
                store,
                opened.slots,
                opened.outputs,
                helper=_ControlHelpers(ControlAdministration(opened.admin, lambda: acme.statuses), acme),
                start=inheritance,
            )
    finally:
        close_slots(opened.slots)
        opened.admin.close()
        acme.close()


@frozen(eq=False)
class _ControlHelpers:
    """What runs beside the control process."""

    administration: ControlAdministration
    acme: AcmeRunner

    async def run(self, control: Control) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.administration.run, control)
            nursery.start_soon(self.acme.run_beside, control)

    def close_copies(self) -> None:
        self.administration.close_copies()
        self.acme.close()

    def sockets(self) -> Sequence[PassedSocket]:
        return self.administration.sockets()

    def leave(self) -> None:
        self.administration.leave()
        self.acme.close()


async def _serve(opened: OpenedProcess, inheritance: Inheritance) -> None:
    process = opened.process
    service = process.service

    def on_handed_over(pid: int, unused: Collection[str]) -> None:
        seconds = service.config.process.drain_timeout
        notify_handed_over(pid, seconds)
        opened.hand_over(seconds, pid=pid, unused=unused)

    giver = SingleGiver(process, opened.admin, on_handed_over)
    with trio.open_signal_receiver(*SIGNALS) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_handle_signals, process, signals, nursery, inheritance, giver)
            if os.getpid() == 1:
                nursery.start_soon(supervise, process.service.log, "reaping of processes", _reap_orphans)
            if (interval := watchdog_interval()) is not None:
                nursery.start_soon(_feed_watchdog, interval)
            async with trio.open_nursery() as serving:
                await serving.start(opened.run, giver)
                inheritance.use([list(service.listeners)], opened.admin)
                service.on_listeners_changed = lambda listeners: inheritance.on_reloaded([list(listeners)])
                reason = await _complete(inheritance)
                if reason is not None:
                    log_handover_failed(service.log, reason)
            nursery.cancel_scope.cancel()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


async def _complete(inheritance: Inheritance) -> str | None:
    """Complete the hand-over. The dialogue with the running instance blocks, so it is in a thread if there is one."""
    if inheritance.is_pending:
        with contextlib.suppress(RuntimeError):  # no thread can be started
            return await trio.to_thread.run_sync(inheritance.complete)
    return inheritance.complete()


async def _handle_signals(
    process: SingleProcess,
    signals: object,
    nursery: trio.Nursery,
    inheritance: Inheritance,
    giver: SingleGiver,
) -> None:
    service, log = process.service, process.service.log
    is_draining = False
    async for number in signals:  # type: ignore[attr-defined]  # trio does not name the receiver's type
        match signal_action(number, is_draining=is_draining):
            case SignalAction.DRAIN:
                is_draining = True
                inheritance.before_stop()
                seconds = service.config.process.drain_timeout
                notify_draining(seconds)
                service.drain(seconds)
            case SignalAction.STOP:
                notify_stopping()
                inheritance.before_stop()
                log_stopping(log, service.sessions)
                nursery.cancel_scope.cancel()
            case SignalAction.REOPEN_LOG:
                log.reopen()
            case SignalAction.RELOAD:
                log.reopen()
                nursery.start_soon(_reload_contained, process)
            case SignalAction.HAND_OVER:
                nursery.start_soon(giver.on_signal)
            case SignalAction.IGNORE:
                log_ignored(log)


async def _feed_watchdog(interval: float) -> None:
    """Report to the service manager that this loop runs: if it hangs, the manager starts another process."""
    while True:
        notify_alive()
        await trio.sleep(interval)


async def _reload_contained(process: SingleProcess) -> None:
    with contained(process.service.log, "reload"), contextlib.suppress(ConfigError):  # it is logged
        await reload_file(process, "SIGHUP")


async def _reap_orphans() -> None:
    """As process 1 of a container, wait for orphaned processes, such as those of ``docker exec``.

    The kernel makes process 1 their parent, and nothing else can wait for them. With several workers the
    supervisor waits for all children.
    """
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        while True:
            _wait_for_exited()
            await signals.__anext__()


def _wait_for_exited() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
