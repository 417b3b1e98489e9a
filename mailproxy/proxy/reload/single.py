"""The reload of a single process.

    compare    what changes, and what of it needs a restart
    prepare    TLS files, users, binds and loops are checked as at the start; new addresses are listened on
    resolve    the host names of servers that are new, or have another address
    apply      in one step without a wait, so that no session sees half of it

After a fault in one of the first three steps, the new sockets are closed and the proxy is as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.certificates.store import CertificateStore
from mailproxy.certificates.watcher import log_renewed
from mailproxy.config import Config, load
from mailproxy.config.difference import compare
from mailproxy.errors import ConfigError, Fault
from mailproxy.net.handover import Handover, hand_over
from mailproxy.net.listener import Listener
from mailproxy.net.notify import notify_ready, notify_reloading
from mailproxy.proxy.backend.factory import make_servers
from mailproxy.proxy.process import max_sessions
from mailproxy.proxy.reload.apply import Generation
from mailproxy.proxy.reload.preparation import (
    Prepared,
    apply_staged,
    certificate_changes,
    check_ports,
    prepare,
    resolve_new_names,
)
from mailproxy.proxy.reload.result import Reload, Trigger
from mailproxy.proxy.single_process import SingleProcess


async def reload_file(process: SingleProcess, trigger: Trigger) -> Reload:
    """Read the configuration file again and use it.

    The result is logged. The service manager gets the begin and the end.

    Raises:
        ConfigError: With every fault. Nothing has changed then, except that renewed TLS files are taken into
            use.
    """
    service = process.service
    if service.is_serving:
        notify_reloading()
    try:
        return await reload(process, await _load(process, trigger), trigger)
    except ConfigError:
        process.monitor.scan_certificates()
        raise
    finally:
        if service.is_serving:  # otherwise it starts or stops, and the service manager knows that
            notify_ready()


async def _load(process: SingleProcess, trigger: Trigger) -> Config:
    """Read the configuration file. Log its faults, if it has some, and raise them."""
    try:
        return await trio.to_thread.run_sync(load, process.service.config.source, abandon_on_cancel=True)
    except ConfigError as error:
        process.reloads.fail(error, trigger)
        raise


async def reload(process: SingleProcess, config: Config, trigger: Trigger = "Python") -> Reload:
    """Use another configuration in a running proxy.

    Args:
        process: The running proxy.
        config: The configuration.
        trigger: By what the reload was started.

    Raises:
        ConfigError: With every fault of files, addresses and names, or if the proxy does not serve. Nothing
            has changed then.

    Cancellation:
        Nothing has changed, or everything has.
    """
    started_at = trio.current_time()
    async with process.reload_lock:
        try:
            reloaded = await _reload_contained(process, config, started_at)
        except ConfigError as error:
            process.reloads.fail(error, trigger)
            raise
    process.reloads.succeed(reloaded, trigger)
    return reloaded


async def _reload_contained(process: SingleProcess, config: Config, started_at: float) -> Reload:
    try:
        return await _reload(process, config, started_at)
    except (OSError, RuntimeError) as error:  # no descriptors, or no thread
        raise config.error([Fault("", f"cannot be used: {error}")]) from error


async def _reload(process: SingleProcess, config: Config, started_at: float) -> Reload:
    service, monitor = process.service, process.monitor
    _check_serving(process, config)
    difference = compare(service.config, config)
    config = difference.config
    async with monitor.certificate_lock:
        previous = monitor.reloader.store if monitor.reloader is not None else CertificateStore()
        is_log_new = config.log != service.config.log
        prepared, handover = await trio.to_thread.run_sync(
            partial(_prepare, config, previous, tuple(service.listeners), is_log_new=is_log_new)
        )
        store = prepared.store
        try:
            contexts = store.server_contexts
            servers = {name: make_servers(table, contexts) for name, table in config.backends.items()}
            await resolve_new_names(config, servers, service.backends)
            _check_serving(process, config)
            apply_staged(config, store)
        except BaseException:
            prepared.cancel()
            handover.cancel()
            raise
        process.reconfigure(
            Generation(
                config=config,
                handover=handover,
                servers=servers,
                server_contexts=contexts,
                reloader=CertificateReloader(config, store) if store.files else None,
                max_sessions=max_sessions(config),
                outputs=prepared.outputs,
            )
        )
    log_renewed(service.log, prepared.renewed)
    return Reload(
        changes=(*difference.changes, *certificate_changes(previous, store)),
        needs_restart=difference.needs_restart,
        ms=round((trio.current_time() - started_at) * 1000),
    )


def _check_serving(process: SingleProcess, config: Config) -> None:
    if not process.service.is_serving:
        raise config.error([Fault("", "cannot be used: the proxy is starting or stopping")])


def _prepare(
    config: Config, previous: CertificateStore, listeners: Sequence[Listener], *, is_log_new: bool
) -> tuple[Prepared, Handover]:
    prepared = prepare(config, previous, is_log_new=is_log_new)
    try:
        handover = hand_over(config, prepared.store.bind_terminators, listeners)
    except BaseException:
        prepared.cancel()
        raise
    try:
        check_ports(config, handover.listeners)
    except BaseException:
        prepared.cancel()
        handover.cancel()
        raise
    return prepared, handover
