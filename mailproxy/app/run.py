"""The proxy as a process: what signals mean, and who it is."""

from __future__ import annotations

import signal

import trio

from mailproxy.app.material import load_material
from mailproxy.app.privileges import drop_privileges
from mailproxy.app.proxy import open_service
from mailproxy.config import Config
from mailproxy.log.events import STOPPING
from mailproxy.proxy.service import Service

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


def run(config: Config) -> None:
    """Run in the foreground until stopped by a signal.

    SIGTERM drains and stops, a second one or SIGINT stops now, SIGUSR2 and SIGHUP reopen the log file. Raises
    ConfigError, before anything is served, with every fault that files, addresses and names have.
    """
    material = load_material(config)
    service = open_service(config, material)
    drop_privileges(config)
    # Signals wait until somebody hears them, and at the end for ever: one that came late would spoil the exit code.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    trio.run(_run, service)


async def _run(service: Service) -> None:
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, service, signals, nursery.cancel_scope)
            await service.run()
            nursery.cancel_scope.cancel()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


async def _obey(service: Service, signals: object, scope: trio.CancelScope) -> None:
    draining = False
    async for number in signals:  # type: ignore[attr-defined]  # trio does not name the receiver's type
        if number in (signal.SIGHUP, signal.SIGUSR2):
            service.log.reopen()
        elif number == signal.SIGTERM and not draining:
            draining = True
            service.drain(service.config.process.drain_timeout)
        else:
            service.log.event(STOPPING, f"stopping now, {service.limit.sessions} sessions are closed")
            scope.cancel()
