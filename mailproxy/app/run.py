"""The proxy as a process: what signals mean, and who it is."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from functools import partial

import trio

from mailproxy.app.api import open_service
from mailproxy.app.privileges import check_capabilities, drop_privileges, wanted_owner
from mailproxy.app.startup import load_and_check, open_all
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.log.events import DESCRIPTORS_SHORT, SIGNAL_IGNORED, STOPPING
from mailproxy.net.listener import close_slots
from mailproxy.net.notify import notify_draining, notify_ready, notify_stopping
from mailproxy.proxy.collector import tune_gc
from mailproxy.proxy.config_change import log_if_changed
from mailproxy.proxy.process import descriptor_shortage, raise_descriptor_limit, worker_count
from mailproxy.proxy.service import Service
from mailproxy.proxy.supervise import supervise
from mailproxy.proxy.unraisable import unraisable
from mailproxy.workers.supervisor import run_supervisor

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGUSR1)


def run(config: Config) -> None:
    """Run in the foreground until stopped by a signal; in one process, or with several workers as their launcher.

    SIGTERM drains and stops, a second one or SIGINT stops now, SIGUSR2 and SIGHUP reopen the log file, SIGHUP has certificates looked
    at, too. Raises
    ConfigError, before anything is served, with every fault that files, addresses and names have.
    """
    _fill_standard_descriptors()
    raise_descriptor_limit(config)
    store = load_and_check(config)
    if worker_count(config) > 1:
        _run_workers(config, store)
        return
    service = open_service(config, store, owner=wanted_owner(config))
    drop_privileges(config)
    check_capabilities(config)
    sys.unraisablehook = partial(unraisable, service.log)
    # Signals wait until somebody hears them, and at the end for ever: one that came late would spoil the exit code.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    tune_gc()
    if (shortage := descriptor_shortage(config)) is not None:
        service.log.event(DESCRIPTORS_SHORT, f"process.max_sessions: {shortage}")
    trio.run(_run, service)


def _run_workers(config: Config, store: CertificateStore) -> None:
    slots, outputs = open_all(config, store, workers=worker_count(config), owner=wanted_owner(config))
    try:
        drop_privileges(config)
        check_capabilities(config)
        run_supervisor(config, store, slots, outputs)
    finally:
        close_slots(slots)


def _fill_standard_descriptors() -> None:
    """Started without standard input, output or error, a socket would get their numbers, and the log would go there."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


async def _run(service: Service) -> None:
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_handle_signals, service, signals, nursery)
            if os.getpid() == 1:
                nursery.start_soon(supervise, service.log, "reaping of processes", _reap)
            async with trio.open_nursery() as serving:
                await serving.start(service.run)
                notify_ready()
            nursery.cancel_scope.cancel()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


async def _reap() -> None:
    """As process 1 of a container, wait for orphans of others, ``docker exec`` for one: nobody else can.

    The launcher, where there are workers, waits for all processes anyway.
    """
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        while True:
            _wait_for_ended()
            await signals.__anext__()


def _wait_for_ended() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


async def _handle_signals(service: Service, signals: object, nursery: trio.Nursery) -> None:
    draining = False
    async for number in signals:  # type: ignore[attr-defined]  # trio does not name the receiver's type
        if number in (signal.SIGHUP, signal.SIGUSR2):
            service.log.reopen()
            if number == signal.SIGHUP:
                service.renew_certificates()
                nursery.start_soon(log_if_changed, service.config, service.log)
        elif number == signal.SIGUSR1:
            service.log.event(
                SIGNAL_IGNORED, "SIGUSR1 means nothing here: SIGUSR2 reopens the log, SIGTERM stops"
            )
        elif number == signal.SIGTERM and not draining:
            draining = True
            notify_draining(service.config.process.drain_timeout)
            service.drain(service.config.process.drain_timeout)
        else:
            notify_stopping()
            service.log.event(STOPPING, f"stopping now, {service.limit.sessions} sessions are closed")
            nursery.cancel_scope.cancel()
