"""The steps of a reload before anything changes: TLS files, checks of this machine, log, host names.

A process that prepares keeps all that it opens apart from what is in use. `Prepared.cancel` closes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import trio
from attrs import frozen

from mailproxy.address import TcpAddress
from mailproxy.certificates.loader import load_next
from mailproxy.certificates.reloader import describe_changes
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.config.path import ConfigPath, bind_path, server_path
from mailproxy.errors import Fault, ProxyError, ServerRefusedError
from mailproxy.log import Output, open_target
from mailproxy.net.listener import Listener
from mailproxy.net.resolve import literal_endpoint, resolve
from mailproxy.net.tls.certificate import Certificate
from mailproxy.net.tls.errors import error_reason
from mailproxy.proxy.acme_checks import check_acme
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.host_checks import check_binds, check_capabilities, check_log, check_loops, check_users

_RESOLVE_TIMEOUT_S = 5.0  # a name server that is down must not keep a reload waiting


@frozen(kw_only=True)
class Prepared:
    """What is loaded and opened for a configuration before it is used.

    Attributes:
        store: The TLS files.
        outputs: The outputs of the log; None for those in use.
        renewed: What the log says about TLS files that have changed.
    """

    store: CertificateStore
    outputs: Sequence[Output] | None
    renewed: Mapping[Path, str]

    def cancel(self) -> None:
        """Close what was opened: the configuration is not used."""
        for output in self.outputs or ():
            output.target.close()


def prepare(
    config: Config, previous: CertificateStore, *, is_log_new: bool, shares_log: bool = False
) -> Prepared:
    """Load the TLS files, check this machine, and open the log. Blocks on files.

    Args:
        config: The configuration.
        previous: The TLS files in use.
        is_log_new: Whether the log has other targets.
        shares_log: Whether other processes write to the same targets.

    Raises:
        ConfigError: With every fault. Nothing is left open then.
    """
    changed = previous.changed_files()
    store = load_next(config, previous)
    checks = [check_users, check_binds, check_loops, check_acme]
    for check in (*checks, check_log) if is_log_new else checks:
        check(config, store.add)
    if store.faults:
        raise config.error(store.faults)
    check_capabilities(config)
    outputs = open_log(config, None, shared=shares_log) if is_log_new else None
    renewed = dict(describe_changes(store, previous, changed)) if changed else {}
    return Prepared(store=store, outputs=outputs, renewed=renewed)


def open_log(config: Config, owner: tuple[int, int] | None, *, shared: bool) -> list[Output]:
    """Open the log targets.

    Args:
        config: The configuration.
        owner: The user and group that own log files which are created here; None for those of the process.
        shared: Whether other processes write to the same targets.

    Raises:
        ConfigError: One cannot be opened. The others are closed.
    """
    outputs: list[Output] = []
    for path, each in config.log.outputs.items():
        try:
            target = open_target(
                each.to.text, each.to.syslog, owner, shared=shared, facility=each.facility, tag=each.tag
            )
        except OSError as error:
            for output in outputs:
                output.target.close()
            reason = error.strerror or str(error)
            raise config.error([Fault(path / "to", f"{each.to}: {reason}")]) from None
        outputs.append(Output(target, each.format, each.level, str(each.to)))
    return outputs


def check_ports(config: Config, listeners: Iterable[Listener]) -> None:
    """Raise ConfigError if a server without a port has a bind without one: an inherited socket that is a Unix socket."""
    for listener in listeners:
        frontend = config.frontends[listener.frontend]
        if listener.port is None:
            portless = [
                server
                for name in frontend.backend_names
                for server in config.backends[name].servers
                if isinstance(server.address, TcpAddress) and server.address.port is None
            ]
            if portless:
                path = bind_path(frontend.name, listener.number - 1) / "address"
                fact = f"{listener.bind.address} has no port for server {portless[0].name}, which has none either"
                raise config.error([Fault(path, fact)])


async def resolve_new_names(
    config: Config, servers: Mapping[str, Sequence[BackendServer]], backends: Mapping[str, Backend]
) -> None:
    """Resolve the host names of servers that are new, or have another address.

    Args:
        config: The configuration.
        servers: Its servers by backend, which get the addresses.
        backends: The backends in use.

    Raises:
        ConfigError: With each name that has no address.
    """
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
            before = _addresses(backends[name].servers) if name in backends else {}
            for index, server in enumerate(made):
                address = server.config.address
                if literal_endpoint(address) is None and before.get(server.name) != address:
                    assert isinstance(address, TcpAddress)  # noqa: S101 - only these have host names
                    prefer = config.backends[name].resolve_prefer
                    nursery.start_soon(look_up, server, server_path(name, index) / "address", address, prefer)
    if faults:
        raise config.error(faults)


def _addresses(servers: Iterable[BackendServer]) -> dict[str, object]:
    return {server.name: server.config.address for server in servers}


def apply_staged(config: Config, store: CertificateStore) -> None:
    """Let new handshakes use the certificates as they were loaded.

    Raises:
        ConfigError: Some contexts cannot be changed, for example without free descriptors.
    """
    faults = []
    for path, apply in store.staged or ():
        try:
            apply()
        except OSError as error:
            faults.append(Fault(path, error_reason(error)))
    if faults:
        raise config.error(faults)


def certificate_changes(old: CertificateStore, new: CertificateStore) -> Iterator[str]:
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
