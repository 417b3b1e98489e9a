"""Files that a configuration names, opened and tried: certificates, keys, CAs, ciphers, users, the log.

The faults that are found here are of the same kind as those of the text, and all of them come at once.
"""

from __future__ import annotations

import grp
import os
import pwd
import ssl
from datetime import UTC, datetime
from pathlib import Path

from attrs import Factory, define

from mailproxy.config import Config, FrontendTls
from mailproxy.errors import ConfigError, Fault
from mailproxy.net.certificates import Certificate, certificate_files, read_certificate
from mailproxy.net.tls import Context, connecting_context, load_chain, reason, terminating_context


@define
class Material:
    """What came of the files. Contexts by frontend and place of the bind, by backend and server; certificates by path."""

    bind_contexts: dict[tuple[str, int], Context] = Factory(dict)
    server_contexts: dict[str, dict[str, Context]] = Factory(dict)
    certificates: dict[tuple[Path, Path | None], tuple[str, Certificate]] = Factory(dict)
    expired: list[Fault] = Factory(list)
    faults: list[Fault] = Factory(list)

    def add(self, path: str, fact: str) -> None:
        fault = Fault(path, fact)
        if fault not in self.faults:
            self.faults.append(fault)


def load_material(config: Config) -> Material:
    """Open everything. Raises ConfigError with every fault. Blocks on files, not on the network."""
    material = Material()
    _load_binds(config, material)
    _load_servers(config, material)
    _check_users(config, material)
    _check_log(config, material)
    if material.faults:
        raise ConfigError(material.faults, config.source)
    return material


def _load_binds(config: Config, material: Material) -> None:
    made: dict[FrontendTls, Context | None] = {}
    for name, frontend in config.frontends.items():
        for index, bind in enumerate(frontend.bind):
            if bind.mode != "tls" or bind.tls is None:
                continue
            own = bind.tls != frontend.tls
            path = f"frontends.{name}.bind[{index}].tls" if own else f"frontends.{name}.tls"
            if bind.tls not in made:
                made[bind.tls] = _bind_context(bind.tls, path, material)
            context = made[bind.tls]
            if context is not None:
                material.bind_contexts[name, index] = context


def _bind_context(tls: FrontendTls, path: str, material: Material) -> Context | None:
    certificates = []
    for index, place in enumerate(tls.certificates):
        certificates += _read_place(place, tls.key, f"{path}.certificates[{index}]", material)
    if not certificates:
        return None
    try:
        return terminating_context(tls, certificates)
    except (OSError, ValueError) as error:
        material.add(*_blame_ciphers(tls.ciphers, path, error))
    return None


def _read_place(place: Path, key: Path | None, path: str, material: Material) -> list[Certificate]:
    try:
        files = certificate_files(place)
    except OSError as error:
        material.add(path, f"{place}: {error.strerror}")
        return []
    if not files:
        material.add(path, f"{place}: no .pem, .crt or .cer file in this folder")
    return [
        certificate for file in files if (certificate := _read_file(file, key, path, material)) is not None
    ]


def _read_file(file: Path, key: Path | None, path: str, material: Material) -> Certificate | None:
    known = material.certificates.get((file, key))
    if known is not None:
        return known[1]
    try:
        certificate = read_certificate(file, key or _key_beside(file))
        _try_pair(certificate)
    except OSError as error:
        material.add(path, f"{error.filename or file}: {error.strerror or error}")
        return None
    except ValueError as error:
        material.add(path, f"{file}: {error}")
        return None
    if not certificate.not_before <= datetime.now(UTC) <= certificate.not_after:
        dates = f"from {certificate.not_before:%Y-%m-%d} to {certificate.not_after:%Y-%m-%d}"
        material.expired.append(Fault(path, f"{file}: is not in date: {dates}"))
    material.certificates[file, key] = (path, certificate)
    return certificate


def _key_beside(file: Path) -> Path | None:
    """``imap.key`` beside ``imap.crt`` is how many tools write a pair. Raises OSError."""
    beside = file.with_suffix(".key")
    return beside if file.suffix != ".key" and beside.exists() else None


def _try_pair(certificate: Certificate) -> None:
    """Load certificate and key as a bind would. Raises OSError with the file, ValueError with the fact."""
    key = certificate.key
    if key is not None:
        key.open("rb").close()  # OpenSSL would not say which of the two files is missing
    try:
        load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate.path, key)
    except ssl.SSLError as error:
        raise ValueError(_about_pair(error, key)) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(key or certificate.path)) from None


def _about_pair(error: ssl.SSLError, key: Path | None) -> str:
    if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return "the private key does not belong to the certificate, which must be the first one in its file"
    if error.reason in (None, "NO_START_LINE", "PEM_LIB"):
        if key is not None:
            return f"{key} has no private key in PEM form"
        return (
            "has no private key: put it into the same file, beside it with the suffix .key, or name it as key"
        )
    return f"cannot be used: {reason(error)}"


def _blame_ciphers(ciphers: str | None, path: str, error: Exception) -> tuple[str, str]:
    if isinstance(error, ssl.SSLError) and ciphers is not None and "cipher" in str(error).lower():
        return (
            f"{path}.ciphers",
            f'"{ciphers}": OpenSSL knows no such cipher of TLS 1.2 (those of 1.3 are always on)',
        )
    return path, reason(error) if isinstance(error, ssl.SSLError) else str(error)


def _load_servers(config: Config, material: Material) -> None:
    for name, backend in config.backends.items():
        contexts = material.server_contexts.setdefault(name, {})
        made: dict[object, Context] = {}
        for index, server in enumerate(backend.servers):
            if server.tls is None:
                continue
            own = server.tls != backend.tls
            path = f"backends.{name}.servers[{index}].tls" if own else f"backends.{name}.tls"
            try:
                if server.tls not in made:
                    made[server.tls] = connecting_context(server.tls)
                contexts[server.name] = made[server.tls]
            except ssl.SSLError as error:
                if server.tls.ciphers is not None and "cipher" in str(error).lower():
                    material.add(*_blame_ciphers(server.tls.ciphers, path, error))
                else:
                    material.add(
                        f"{path}.ca", f"{server.tls.ca}: no certificate in PEM form ({reason(error)})"
                    )
            except OSError as error:
                material.add(f"{path}.ca", f"{server.tls.ca}: {error.strerror or error}")


def _check_users(config: Config, material: Material) -> None:
    process = config.process
    users = [("process.user", process.user)]
    groups = [("process.group", process.group)]
    for name, frontend in config.frontends.items():
        for index, bind in enumerate(frontend.bind):
            users.append((f"frontends.{name}.bind[{index}].unix_user", bind.unix_user))
            groups.append((f"frontends.{name}.bind[{index}].unix_group", bind.unix_group))
    for path, user in users:
        if user is not None and not _known(pwd.getpwnam, user):
            material.add(path, f'there is no user "{user}" on this machine')
    for path, group in groups:
        if group is not None and not _known(grp.getgrnam, group):
            material.add(path, f'there is no group "{group}" on this machine')


def _known(look_up: object, name: str) -> bool:
    try:
        look_up(name)  # type: ignore[operator]
    except KeyError:
        return False
    return True


def _check_log(config: Config, material: Material) -> None:
    file = config.log.to.path
    if file is None:
        return
    try:
        if not file.parent.is_dir():
            material.add("log.to", f"{file}: there is no folder {file.parent}")
        elif file.is_dir():
            material.add("log.to", f"{file}: is a folder")
        elif not os.access(file if file.exists() else file.parent, os.W_OK):
            material.add("log.to", f"{file}: cannot be written")
    except OSError as error:  # a folder on the way is closed, a name too long
        material.add("log.to", f"{file}: {error.strerror}")
