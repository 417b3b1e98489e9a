"""Reload of the configuration in place: everything that can fail is done before anything changes.

    compare    what changes, and what of it needs a restart
    load       TLS files, users, binds and loops are checked as at the start; new addresses are listened on
    resolve    the host names of servers that are new, or have another address
    apply      in one step without a wait, so that no session sees half of it

After a fault in one of the first three steps, the new sockets are closed and the proxy is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import trio
from attrs import frozen

from mailproxy.address import TcpAddress
from mailproxy.app.acme import check_acme
from mailproxy.app.host_checks import check_binds, check_log, check_loops, check_users
from mailproxy.app.privileges import check_capabilities
from mailproxy.app.startup import check_ports, open_log
from mailproxy.certificates.loader import load_next
from mailproxy.certificates.reloader import CertificateReloader, describe_changes
from mailproxy.certificates.store import CertificateStore
from mailproxy.certificates.watcher import log_renewed
from mailproxy.config import Config, load
from mailproxy.config.difference import compare
from mailproxy.config.path import ConfigPath, server_path
from mailproxy.errors import ConfigError, Fault, ProxyError, ServerRefusedError
from mailproxy.log import Log, Output
from mailproxy.log.events import RELOAD_FAILED, RELOADED
from mailproxy.net.handover import Handover, hand_over
from mailproxy.net.listener import Listener
from mailproxy.net.notify import notify_ready, notify_reloading
from mailproxy.net.resolve import literal_endpoint, resolve
from mailproxy.net.tls.certificate import Certificate
from mailproxy.net.tls.errors import error_reason
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.factory import make_servers
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.process import max_sessions
from mailproxy.proxy.single_process import Generation, SingleProcess

_RESOLVE_TIMEOUT_S = 5.0  # a name server that is down must not keep a reload waiting
_LOGGED_CHANGES_MAX = 100  # a line of the log has a length that syslog and people can take


@frozen(kw_only=True)
class Reload:
    """A reload that was made.

    Attributes:
        changes: One line for each change.
        needs_restart: One line for each change that was not made, since it needs a restart.
        ms: How long it took, in milliseconds.
    """

    changes: tuple[str, ...]
    needs_restart: tuple[str, ...]
    ms: int

    @property
    def answer(self) -> tuple[str, ...]:
        """The lines for the operator."""
        restart = (f"! {line.removeprefix('~ ')} (needs a restart)" for line in self.needs_restart)
        return (*self.changes, *restart, f"reloaded in {self.ms} ms")


async def reload_file(process: SingleProcess) -> Reload:
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
        return await reload(process, await _load(service.config.source, service.log))
    except ConfigError:
        process.monitor.scan_certificates()
        raise
    finally:
        if service.is_serving:  # otherwise it starts or stops, and the service manager knows that
            notify_ready()


async def _load(source: str, log: Log) -> Config:
    """Read the configuration file. Log its faults, if it has some, and raise them."""
    try:
        return await trio.to_thread.run_sync(load, source, abandon_on_cancel=True)
    except ConfigError as error:
        _log_failure(log, error)
        raise


async def reload(process: SingleProcess, config: Config) -> Reload:
    """Use another configuration in a running proxy.

    Args:
        process: The running proxy.
        config: The configuration.

    Raises:
        ConfigError: With every fault of files, addresses and names, or if the proxy does not serve. Nothing
            has changed then.

    Cancellation:
        Nothing has changed, or everything has.
    """
    started_at = trio.current_time()
    log = process.service.log
    async with process.reload_lock:
        try:
            reloaded = await _reload(process, config, started_at)
        except ConfigError as error:
            _log_failure(log, error)
            raise
    lines = reloaded.answer[:-1]
    shown = lines[:_LOGGED_CHANGES_MAX]
    more = f"; and {len(lines) - len(shown)} more" if len(lines) > len(shown) else ""
    log.event(
        RELOADED,
        f"reloaded in {reloaded.ms} ms: {'; '.join(shown) or 'nothing has changed'}{more}",
        changes=reloaded.changes[:_LOGGED_CHANGES_MAX],
        needs_restart=reloaded.needs_restart,
        ms=reloaded.ms,
    )
    return reloaded


def _log_failure(log: Log, error: ConfigError) -> None:
    faults = [f"{fault.location(error.source)}{fault}" for fault in error.faults]
    log.event(
        RELOAD_FAILED,
        f"reload failed, the configuration stays as it was: {'; '.join(faults)}",
        faults=faults,
    )


async def _reload(process: SingleProcess, config: Config, started_at: float) -> Reload:
    service, monitor = process.service, process.monitor
    _check_serving(process, config)
    difference = compare(service.config, config)
    config = difference.config
    async with monitor.certificate_lock:
        previous = monitor.reloader.store if monitor.reloader is not None else CertificateStore()
        prepare = partial(
            _prepare, config, previous, tuple(service.listeners), is_log_new=config.log != service.config.log
        )
        prepared = await trio.to_thread.run_sync(prepare)
        store = prepared.store
        try:
            servers = await _make_servers(config, store, service.backends)
            _check_serving(process, config)
            _apply_staged(config, store)
        except BaseException:
            prepared.cancel()
            raise
        process.reconfigure(
            Generation(
                config=config,
                handover=prepared.handover,
                servers=servers,
                server_contexts=store.server_contexts,
                reloader=CertificateReloader(config, store) if store.files else None,
                max_sessions=max_sessions(config),
                outputs=prepared.outputs,
            )
        )
    log_renewed(service.log, prepared.renewed)
    return Reload(
        changes=(*difference.changes, *_certificate_changes(previous, store)),
        needs_restart=difference.needs_restart,
        ms=round((trio.current_time() - started_at) * 1000),
    )


def _check_serving(process: SingleProcess, config: Config) -> None:
    if not process.service.is_serving:
        raise config.error([Fault("", "cannot be used: the proxy is starting or stopping")])


@frozen(kw_only=True)
class _Prepared:
    """What is opened and loaded for a configuration before it is used.

    Attributes:
        store: The TLS files.
        handover: The listeners.
        outputs: The outputs of the log; None for those in use.
        renewed: What the log says about TLS files that have changed.
    """

    store: CertificateStore
    handover: Handover
    outputs: Sequence[Output] | None
    renewed: Mapping[Path, str]

    def cancel(self) -> None:
        """Close what was opened: the configuration is not used."""
        self.handover.cancel()
        for output in self.outputs or ():
            output.target.close()


def _prepare(
    config: Config, previous: CertificateStore, listeners: Sequence[Listener], *, is_log_new: bool
) -> _Prepared:
    """Load the TLS files, check this machine, listen on new addresses, open the log. Blocks on files."""
    changed = previous.changed_files()
    store = load_next(config, previous)
    checks = [check_users, check_binds, check_loops, check_acme]
    for check in (*checks, check_log) if is_log_new else checks:
        check(config, store.add)
    if store.faults:
        raise config.error(store.faults)
    check_capabilities(config)
    handover = hand_over(config, store.bind_terminators, listeners)
    try:
        check_ports(config, list(handover.listeners))
        outputs = open_log(config, None, shared=False) if is_log_new else None
    except BaseException:
        handover.cancel()
        raise
    renewed = dict(describe_changes(store, previous, changed)) if changed else {}
    return _Prepared(store=store, handover=handover, outputs=outputs, renewed=renewed)


async def _make_servers(
    config: Config, store: CertificateStore, backends: Mapping[str, Backend]
) -> dict[str, list[BackendServer]]:
    """Make the servers of all backends, and resolve the host names that are new.

    Raises:
        ConfigError: With each name that has no address.
    """
    servers = {name: make_servers(table, store.server_contexts) for name, table in config.backends.items()}
    faults: list[Fault] = []

    async def look_up(
        server: BackendServer, path: ConfigPath, address: TcpAddress, prefer: Literal["ipv4", "ipv6"] | None
    ) -> None:
        fact = f"{address.host}: no answer within {_RESOLVE_TIMEOUT_S:g}s"
        with trio.move_on_after(_RESOLVE_TIMEOUT_S):
            try:
                server.addresses = await resolve(address.host, address.port, prefer)
            except (ServerRefusedError, ProxyError) as error:
                fact = str(error)
            else:
                server.resolve_error = ""
                return
        faults.append(Fault(path, fact))

    async with trio.open_nursery() as nursery:
        for name, made in servers.items():
            before = (
                {each.name: each.config.address for each in backends[name].servers}
                if name in backends
                else {}
            )
            for index, server in enumerate(made):
                address = server.config.address
                if literal_endpoint(address) is None and before.get(server.name) != address:
                    assert isinstance(address, TcpAddress)  # noqa: S101 - only these have host names
                    prefer = config.backends[name].resolve_prefer
                    nursery.start_soon(look_up, server, server_path(name, index) / "address", address, prefer)
    if faults:
        raise config.error(faults)
    return servers


def _apply_staged(config: Config, store: CertificateStore) -> None:
    """Let new handshakes use the certificates as they were loaded."""
    faults = []
    for path, apply in store.staged or ():
        try:
            apply()
        except OSError as error:
            faults.append(Fault(path, error_reason(error)))
    if faults:
        raise config.error(faults)


def _certificate_changes(old: CertificateStore, new: CertificateStore) -> Iterator[str]:
    """Yield a line for each certificate that comes, goes, or was renewed in its file."""
    before = {files: certificate for files, (_, certificate) in old.certificates.items()}
    now = {files: certificate for files, (_, certificate) in new.certificates.items()}
    for files, certificate in before.items():
        if files not in now:
            yield f"- certificate {_name(certificate)}"
    for files, certificate in now.items():
        if files not in before:
            yield f"+ certificate {_name(certificate)}"
        elif certificate != before[files]:
            yield f"~ certificate {_name(certificate)}"


def _name(certificate: Certificate) -> str:
    return certificate.names[0] if certificate.names else str(certificate.path)
