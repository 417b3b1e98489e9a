"""Files of TLS that a configuration names, opened and tried: certificates, keys, CAs, revocation lists; with its ciphers.

The faults that are found here are of the same kind as those of the text, and all of them come at once.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from attrs import Factory, define

from mailproxy.config import Config, FrontendTls, ServerTls
from mailproxy.config.check_plan import entry_paths, tls_of_checks
from mailproxy.display_path import shown
from mailproxy.errors import Fault
from mailproxy.net.tls.certificate import Certificate, is_authority, next_update, read_certificate, stamp_of
from mailproxy.net.tls.certificate_files import (
    PemFileError,
    certificate_files,
    find_key,
    possible_keys,
    require_regular,
    served_files,
)
from mailproxy.net.tls.context import Context, TlsKeyError, load_chain, make_client_context
from mailproxy.net.tls.errors import error_reason
from mailproxy.net.tls.terminator import Terminator


@define
class CertificateStore:
    """What came of the files. Terminators by the TLS that they are made of, and by frontend and place of the bind; contexts
    by the TLS towards servers that they are for; certificates, and the ends of revocation lists, by path, with the path of the key that names each.

    ``files`` has every file and folder that was looked at, with its stamp, and those that were not there; ``folders`` are those
    that are folders, ``authorities`` the files of CAs and revocation lists, ``kept`` those of which nothing new could be used. ``prepared``: what takes up what is new for binds, with the path of its key; None where
    that is done at once.
    """

    bind_terminators: dict[tuple[str, int], Terminator] = Factory(dict)
    certificates: dict[tuple[Path, Path | None], tuple[str, Certificate]] = Factory(dict)
    revocations: dict[Path, tuple[str, datetime | None]] = Factory(dict)
    expired: list[Fault] = Factory(list)
    faults: list[Fault] = Factory(list)
    files: dict[Path, object] = Factory(dict)
    rejected: set[Path] = Factory(set)
    folders: set[Path] = Factory(set)
    authorities: set[Path] = Factory(set)
    terminators: dict[FrontendTls, Terminator] = Factory(dict)
    server_contexts: dict[ServerTls, Context] = Factory(dict)
    staged: list[tuple[str, Callable[[], None]]] | None = None

    def add(self, path: str, fact: str) -> None:
        fault = Fault(path, fact)
        if fault not in self.faults:
            self.faults.append(fault)

    def reject(self, path: str, file: Path, fact: str, *, retry: bool = False) -> None:
        """A file is no good: what was known of it stays. ``again``: that may pass without its changing."""
        self.add(path, f"{shown(file)}: {fact}")
        self.rejected.add(file)
        if retry:
            self.files[file] = None  # unlike anything that a look finds

    def remember_stat(self, file: Path) -> None:
        """Note what a file or folder is like, before it is read: what changes while it is read looks changed later."""
        self.files.setdefault(file, stat_file(file))


def stat_file(file: Path) -> object:
    """What changes when a file or what a folder holds does; None if it is not there."""
    try:
        stamp = stamp_of(file)
        return (stamp, tuple(certificate_files(file))) if file.is_dir() else stamp
    except OSError as error:
        return error.errno


def load_certificates(config: Config) -> CertificateStore:
    """Load the TLS files of a configuration. The store has every fault. Blocks on files, not on the network."""
    store = CertificateStore()
    _load_tls(config, store)
    return store


def reload_certificates(config: Config, known: CertificateStore, *, stage: bool = False) -> CertificateStore:
    """TLS once more, with files as they are now. What cannot be used any more stays as it is known, and is a fault.

    The terminators are the known ones, renewed; with ``prepare`` they are once ``prepared`` has been called.
    """
    material = CertificateStore(
        terminators=known.terminators,
        server_contexts=dict(known.server_contexts),
        staged=[] if stage else None,
    )
    _load_tls(config, material, known)
    return material


def _load_tls(config: Config, material: CertificateStore, known: CertificateStore | None = None) -> None:
    loader = _Loader(material, known or CertificateStore())
    for name, frontend in config.frontends.items():
        for index, bind in enumerate(frontend.bind):
            if bind.tls is None or not frontend.terminates_tls(bind):
                continue
            own = bind.tls != frontend.tls
            path = f"frontends.{name}.bind[{index}].tls" if own else f"frontends.{name}.tls"
            terminator = loader.terminator(bind.tls, path)
            if terminator is not None:
                material.bind_terminators[name, index] = terminator
    for name, backend in config.backends.items():
        found = entry_paths(config.frontends.values(), name)
        for index, server in enumerate(backend.servers):
            path = f"backends.{name}.servers[{index}]"
            if server.tls is not None:
                own = server.tls != backend.tls
                loader.server_context(server.tls, f"{path}.tls" if own else f"backends.{name}.tls")
            for tls, key in tls_of_checks(server, backend.protocol, found).items():
                own = server.check != backend.check
                loader.server_context(tls, f"{path}.{key}" if own else f"backends.{name}.{key}")


class _Loader:
    """Loads each TLS table once, however many binds and servers share it."""

    def __init__(self, material: CertificateStore, known: CertificateStore) -> None:
        self._material = material
        self._known = known
        self._tried: set[FrontendTls | ServerTls] = set()

    def terminator(self, tls: FrontendTls, path: str) -> Terminator | None:
        if tls not in self._tried:
            self._tried.add(tls)
            self._load_terminator(tls, path)
        return self._material.terminators.get(tls)

    def _load_terminator(self, tls: FrontendTls, path: str) -> None:
        material = self._material
        certificates = []
        for index, files in enumerate(tls.certificates):
            key = files.key or tls.key
            certificates += self._read_place(files.certificate, key, f"{path}.certificates[{index}]")
        if not self._check_authority(tls, path) or not certificates:
            return
        try:
            if tls in material.terminators and material.staged is not None:
                material.staged.append((path, material.terminators[tls].stage(certificates)))
            elif tls in material.terminators:
                material.terminators[tls].renew(certificates)
            else:
                material.terminators[tls] = Terminator(tls, certificates)
        except (OSError, ValueError) as error:
            material.add(*_blame(path, error))
            material.rejected.update(file for file, _ in material.certificates)
            if isinstance(error, OSError) and not isinstance(
                error, ssl.SSLError
            ):  # the machine's: it may pass
                material.files.update(dict.fromkeys((each.path for each in certificates), None))

    def _check_authority(self, tls: FrontendTls, path: str) -> bool:
        fine = True
        for key, file in (("client_ca", tls.client_ca), ("client_crl", tls.client_crl)):
            if file is not None:
                self._material.remember_stat(file)
                fine &= _check_locations(file, f"{path}.{key}", self._material)
        if fine and tls.client_crl is not None:
            fine = self._read_list(tls.client_crl, f"{path}.client_crl")
        return fine

    def _read_list(self, file: Path, path: str) -> bool:
        try:
            self._material.revocations[file] = (path, next_update(file))
        except OSError as error:
            self._material.reject(path, file, error.strerror or str(error), retry=True)
        except ValueError as error:
            self._material.reject(path, file, str(error))
        else:
            return True
        return False

    def server_context(self, tls: ServerTls, path: str) -> None:
        if tls not in self._tried:
            self._tried.add(tls)
            self._load_server_context(tls, path)

    def _load_server_context(self, tls: ServerTls, path: str) -> None:
        material = self._material
        fine, certificate = True, None
        if tls.ca is not None:
            material.remember_stat(tls.ca)
            fine = _check_locations(tls.ca, f"{path}.ca", material)
        if tls.certificate is not None:
            certificate = self._read_file(tls.certificate, tls.key, f"{path}.certificate", keep=False)
            fine &= certificate is not None
        if not fine:
            return
        try:
            material.server_contexts[tls] = make_client_context(tls, certificate)
        except (OSError, ValueError) as error:
            material.add(*_blame(path, error))

    def _read_place(self, place: Path, key: Path | None, path: str) -> list[Certificate]:
        material = self._material
        material.remember_stat(place)
        try:
            files = certificate_files(place)
        except OSError as error:
            material.reject(path, place, error.strerror or str(error), retry=True)
            return self._previous_of_folder(place, key)
        if files != [place]:
            material.folders.add(place)
        if files == [place]:
            certificate = self._read_file(place, key, path)
            return self._previous_of_folder(place, key) if certificate is None else [certificate]
        if key is not None:
            material.reject(
                path, place, f"is a folder, and {key} is the key of one certificate: name its file"
            )
            return self._previous_of_folder(place, key)
        return self._read_folder(place, files, path) or self._previous_of_folder(place, key)

    def _read_folder(self, folder: Path, files: list[Path], path: str) -> list[Certificate]:
        material = self._material
        for file in files:
            material.remember_stat(file)  # also those left out: what is in them may change
        served = served_files(files, is_authority) + self._out_of_reach(folder, files)
        if not files and not served:
            material.reject(path, folder, "no .pem, .crt or .cer file in this folder")
        elif not served:
            material.reject(path, folder, "no certificate with its private key in this folder")
        read = (self._read_file(file, None, path) for file in served)
        return [certificate for certificate in read if certificate is not None]

    def _out_of_reach(self, folder: Path, files: list[Path]) -> list[Path]:
        """Known files of subfolders that cannot be entered any more, as after a change of user."""
        return [
            file
            for file, key in self._known.certificates
            if key is None and folder in file.parents and file not in files and _is_out_of_reach(file)
        ]

    def _previous_of_folder(self, place: Path, key: Path | None) -> list[Certificate]:
        """What a folder held that has nothing of use any more, or is away: other places shall not lose its names."""
        kept = {
            which: known
            for which, known in self._known.certificates.items()
            if place in which[0].parents and which[1] == key
        }
        self._material.certificates.update(kept)
        self._material.rejected.update(file for file, _ in kept)
        return [certificate for _, certificate in kept.values()]

    def _read_file(self, file: Path, key: Path | None, path: str, *, keep: bool = True) -> Certificate | None:
        material = self._material
        done = material.certificates.get((file, key))
        if done is not None:
            return done[1]
        certificate = None
        _, known = self._known.certificates.get((file, key), (path, None))
        try:
            material.remember_stat(file)
            if key is not None:
                material.remember_stat(key)
            certificate = self._read_if_changed(file, key, known)
        except OSError as error:
            material.reject(path, Path(error.filename or file), error.strerror or str(error), retry=True)
        except PemFileError as error:  # of the certificate or of its key
            material.reject(path, error.path, str(error))
        except ValueError as error:
            material.reject(path, file, str(error))
        if certificate is None or (key is None and certificate.key is not None):
            self._look_at_keys(file)
        if certificate is None:
            material.rejected |= {file, *possible_keys(file)} | ({key} if key else set())
            if known is None or not keep:
                return None
            certificate = known
        elif not certificate.not_before <= datetime.now(UTC) <= certificate.not_after:
            dates = f"from {certificate.not_before:%Y-%m-%d} to {certificate.not_after:%Y-%m-%d}"
            material.expired.append(Fault(path, f"{shown(file)}: is not in date: {dates}"))
        material.certificates[file, key] = (path, certificate)
        return certificate

    def _look_at_keys(self, file: Path) -> None:
        """Note where its key is, or could come to be."""
        for key in possible_keys(file):
            self._material.remember_stat(key)

    def _read_if_changed(self, file: Path, key: Path | None, known: Certificate | None) -> Certificate:
        """Read anew, unless nothing has changed. Raises OSError, ValueError."""
        if known is not None and _is_unchanged(known, key):
            return known
        certificate = read_certificate(file, key)
        _check_pair(certificate)
        return certificate


def _check_locations(file: Path, path: str, material: CertificateStore) -> bool:
    """Are there certificates, or revocation lists, in this file?"""
    material.authorities.add(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        require_regular(file)
        context.load_verify_locations(file)
    except PemFileError as error:
        material.reject(path, file, str(error))
    except ssl.SSLError as error:
        material.reject(path, file, f"no {_what(path)} in PEM form ({error_reason(error)})")
    except OSError as error:
        material.reject(path, file, error.strerror or str(error), retry=True)
    else:
        # OpenSSL takes either
        if context.cert_store_stats()["crl" if path.endswith("crl") else "x509"]:
            return True
        material.reject(path, file, f"no {_what(path)} in PEM form")
    return False


def _what(path: str) -> str:
    return "revocation list" if path.endswith("crl") else "certificate"


def _is_unchanged(known: Certificate, key: Path | None) -> bool:
    """``key``: where the configuration names it. Raises OSError."""
    stamp = stamp_of(known.path)
    if known.key is None:  # it was in the certificate's own file
        return key is None and known.stamps == (stamp,)
    if known.key != (key or find_key(known.path)):
        return False
    return known.stamps == (stamp, stamp_of(known.key))


def _is_out_of_reach(file: Path) -> bool:
    """Is it unknown whether it is there?"""
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return False


def _check_pair(certificate: Certificate) -> None:
    """Load certificate and key as a bind would. Raises OSError with the file, ValueError with the fact."""
    key = certificate.key
    try:
        load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate)
    except ssl.SSLError as error:
        raise ValueError(_pair_error(error, key)) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(key or certificate.path)) from None


def _pair_error(error: ssl.SSLError, key: Path | None) -> str:
    if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        which = "the private key" if key is None else f"the private key in {shown(key)}"
        return f"{which} does not belong to the certificate, which must be the first one in its file"
    if error.reason in (None, "NO_START_LINE", "PEM_LIB"):
        if key is not None:
            return f"{shown(key)} has no private key in PEM form"
        return (
            "has no private key: put it into the same file, beside it with the suffix .key, or name it as key"
        )
    return f"cannot be used: {error_reason(error)}"


def _blame(path: str, error: Exception) -> tuple[str, str]:
    if isinstance(error, TlsKeyError):
        return f"{path}.{error.key}", str(error)
    return path, error_reason(error) if isinstance(error, ssl.SSLError) else str(error)
