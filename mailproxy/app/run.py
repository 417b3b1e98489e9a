"""The proxy as a process: in the foreground until a signal stops it."""

from __future__ import annotations

import contextlib
import os
import signal

import trio

from mailproxy.admin.control_target import ControlAdministration
from mailproxy.admin.sockets import close_admin_sockets
from mailproxy.app.api import OpenedProcess, open_service
from mailproxy.app.privileges import configured_owner, drop_privileges
from mailproxy.app.startup import load_and_check, open_all
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.errors import ConfigError
from mailproxy.log.events import DESCRIPTORS_SHORT
from mailproxy.net.listener import close_slots
from mailproxy.net.notify import notify_draining, notify_ready, notify_stopping
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
from mailproxy.proxy.signals import SIGNALS, SignalAction, log_ignored, log_stopping, signal_action
from mailproxy.proxy.single_process import SingleProcess
from mailproxy.proxy.supervise import contained, supervise
from mailproxy.workers.supervisor import run_supervisor


def run(config: Config) -> None:
    """Run in the foreground until a signal stops it, in one process or as the supervisor of several.

    What the signals mean is in `mailproxy.proxy.signals`.

    Raises:
        ConfigError: Before anything is served, with every fault of files, addresses and names.
    """
    fill_standard_descriptors()
    raise_descriptor_limit(config)
    store = load_and_check(config)
    if worker_count(config) > 1:
        _run_workers(config, store)
    else:
        _run_single_process(config, store)


def _run_single_process(config: Config, store: CertificateStore) -> None:
    opened = open_service(config, store, owner=configured_owner(config))
    log = opened.process.service.log
    drop_privileges(config)
    check_capabilities(config)
    log_unraisable_errors(log)
    # Signals wait until the receiver is open, and for ever at the end: a late one would spoil the exit code.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    tune_gc()
    if (shortage := descriptor_shortage(config)) is not None:
        log.event(DESCRIPTORS_SHORT, f"process.max_sessions: {shortage}")
    trio.run(_serve, opened)


def _run_workers(config: Config, store: CertificateStore) -> None:
    opened = open_all(config, store, workers=worker_count(config), owner=configured_owner(config))
    try:
        drop_privileges(config)
        check_capabilities(config)
        run_supervisor(
            config, store, opened.slots, opened.outputs, helper=ControlAdministration(opened.admin_sockets)
        )
    finally:
        close_slots(opened.slots)
        close_admin_sockets(opened.admin_sockets)


async def _serve(opened: OpenedProcess) -> None:
    process = opened.process
    with trio.open_signal_receiver(*SIGNALS) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_handle_signals, process, signals, nursery)
            if os.getpid() == 1:
                nursery.start_soon(supervise, process.service.log, "reaping of processes", _reap_orphans)
            async with trio.open_nursery() as serving:
                await serving.start(opened.run)
                notify_ready()
            nursery.cancel_scope.cancel()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


async def _handle_signals(process: SingleProcess, signals: object, nursery: trio.Nursery) -> None:
    service, log = process.service, process.service.log
    is_draining = False
    async for number in signals:  # type: ignore[attr-defined]  # trio does not name the receiver's type
        match signal_action(number, is_draining=is_draining):
            case SignalAction.DRAIN:
                is_draining = True
                seconds = service.config.process.drain_timeout
                notify_draining(seconds)
                service.drain(seconds)
            case SignalAction.STOP:
                notify_stopping()
                log_stopping(log, service.sessions)
                nursery.cancel_scope.cancel()
            case SignalAction.REOPEN_LOG:
                log.reopen()
            case SignalAction.RELOAD:
                log.reopen()
                nursery.start_soon(_reload_contained, process)
            case SignalAction.IGNORE:
                log_ignored(log)


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
