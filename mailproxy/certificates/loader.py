"""Loads the TLS files of a configuration into a store: certificates, keys, CAs, revocation lists.

Each file is opened and tried. All faults are reported at once, in the form of the configuration's own faults.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mailproxy.certificates.placeholder import make_placeholder
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config, FrontendTls, ServerTls
from mailproxy.config.acme_plan import AcmePlan, ManagedCertificate, challenge_names
from mailproxy.config.check_plan import entry_paths, tls_of_checks
from mailproxy.config.path import ROOT_PATH, ConfigPath, backend_path, bind_path, frontend_path, server_path
from mailproxy.display_path import display_path
from mailproxy.errors import Fault
from mailproxy.net.tls.certificate import Certificate, file_stamp, is_authority, next_update, read_certificate
from mailproxy.net.tls.certificate_files import (
    PemFileError,
    certificate_files,
    find_key,
    possible_keys,
    require_regular,
    served_files,
)
from mailproxy.net.tls.context import TlsKeyError, load_chain, make_client_context
from mailproxy.net.tls.errors import error_reason
from mailproxy.net.tls.terminator import Terminator


def load_certificates(config: Config) -> CertificateStore:
    """Load the TLS files of a configuration. Blocks on files, not on the network.

    Returns:
        A store. Its ``faults`` has everything that is wrong.
    """
    store = CertificateStore()
    _Loader(store, CertificateStore()).load(config)
    return store


def reload_certificates(
    config: Config, previous: CertificateStore, *, stage: bool = False
) -> CertificateStore:
    """Load the TLS files again, as they are now. Blocks on files, not on the network.

    What cannot be used any longer is a fault, and its previous content stays in use.

    Args:
        config: The configuration of ``previous``.
        previous: What is in use.
        stage: Leave the contexts of binds to the functions in ``staged``. Otherwise new handshakes use the
            new ones at once.

    Returns:
        A new store with the terminators of ``previous``, reloaded.
    """
    store = CertificateStore(
        terminators=previous.terminators,
        server_contexts=dict(previous.server_contexts),
        staged=[] if stage else None,
    )
    _Loader(store, previous).load(config)
    return store


def load_next(config: Config, previous: CertificateStore) -> CertificateStore:
    """Load the TLS files of the next configuration. Blocks on files, not on the network.

    Nothing that ``previous`` uses changes. Tables that stay keep their terminator, and with it the contexts
    of certificates that stay. What is to change in it is in ``staged``.

    Args:
        config: The next configuration.
        previous: What is in use.

    Returns:
        A store. Its ``faults`` has everything that is wrong.
    """
    store = CertificateStore(terminators=dict(previous.terminators), staged=[])
    loader = _Loader(store, previous)
    loader.load(config)
    store.terminators = {tls: each for tls, each in store.terminators.items() if tls in loader.loaded}
    return store


class _Loader:
    """Loads each ``tls`` table once, however many binds and servers share it.

    Attributes:
        loaded: The tables that it has come across.

    In its methods ``path`` is the path of a key in the configuration, as in ``Fault``, and ``key`` the file
    of a private key that the configuration names.
    """

    def __init__(self, store: CertificateStore, previous: CertificateStore) -> None:
        self._store = store
        self._previous = previous
        self.loaded: set[FrontendTls | ServerTls] = set()
        self._acme: AcmePlan | None = None
        self._challenges: Mapping[str, Path] | None = None

    def load(self, config: Config) -> None:
        if config.acme:
            self._acme = AcmePlan(config)
            self._challenges = challenge_names(config) or None
        self._load_binds(config)
        if config.admin.tls is not None:
            self._load_once(config.admin.tls, ROOT_PATH / "admin" / "tls")
        self._load_servers(config)

    def _load_binds(self, config: Config) -> None:
        store = self._store
        for name, frontend in config.frontends.items():
            for index, bind in enumerate(frontend.bind):
                if bind.tls is None or not frontend.terminates_tls(bind):
                    continue
                is_own = bind.tls != frontend.tls
                path = (bind_path(name, index) if is_own else frontend_path(name)) / "tls"
                self._load_once(bind.tls, path)
                terminator = store.terminators.get(bind.tls)
                if terminator is not None:
                    store.bind_terminators[name, index] = terminator

    def _load_servers(self, config: Config) -> None:
        for name, backend in config.backends.items():
            paths_in = entry_paths(config.frontends.values(), name)
            for index, server in enumerate(backend.servers):
                path = server_path(name, index)
                if server.tls is not None:
                    is_own = server.tls != backend.tls
                    self._load_once(server.tls, (path if is_own else backend_path(name)) / "tls")
                for tls, key in tls_of_checks(server, backend.protocol, paths_in).items():
                    is_own = server.check != backend.check
                    self._load_once(tls, (path if is_own else backend_path(name)).joinpath(*key.steps))

    def _load_once(self, tls: FrontendTls | ServerTls, path: ConfigPath) -> None:
        if tls in self.loaded:
            return
        self.loaded.add(tls)
        if isinstance(tls, FrontendTls):
            self._load_terminator(tls, path)
        else:
            self._load_server_context(tls, path)

    def _load_terminator(self, tls: FrontendTls, path: ConfigPath) -> None:
        store = self._store
        certificates = []
        for index, files in enumerate(tls.certificates):
            key = files.key or tls.key
            certificates += self._read_entry(files.certificate, key, path / "certificates" / index)
        if self._acme is not None:
            for group in self._acme.groups_of(tls):
                certificates += self._read_managed(group, path / "acme")
        if not self._check_client_authority(tls, path) or not certificates:
            return
        try:
            if tls not in store.terminators:
                store.terminators[tls] = Terminator(tls, certificates)
            elif store.staged is not None:
                store.staged.append((path, store.terminators[tls].stage(certificates)))
            else:
                store.terminators[tls].reload(certificates)
            store.terminators[tls].challenges = self._challenges
        except (OSError, ValueError) as error:
            self._reject_context(path, error, certificates, (tls.client_ca, tls.client_crl))

    def _load_server_context(self, tls: ServerTls, path: ConfigPath) -> None:
        store = self._store
        is_usable, certificate = True, None
        if tls.ca is not None:
            store.remember_stat(tls.ca)
            is_usable = _check_authority(tls.ca, path / "ca", store)
        if tls.certificate is not None:
            # Without a usable certificate the previous context stays, so there is no need for the previous
            # certificate.
            certificate = self._read_file(tls.certificate, tls.key, path / "certificate", falls_back=False)
            is_usable &= certificate is not None
        if not is_usable:
            return
        try:
            store.server_contexts[tls] = make_client_context(tls, certificate)
        except (OSError, ValueError) as error:
            certificates = () if certificate is None else (certificate,)
            self._reject_context(path, error, certificates, (tls.ca,))

    def _reject_context(
        self,
        path: ConfigPath,
        error: OSError | ValueError,
        certificates: Sequence[Certificate],
        authorities: Iterable[Path | None],
    ) -> None:
        """Reject all files of a table whose context cannot be made. The previous context stays in use."""
        store = self._store
        store.add(*_context_fault(path, error))
        files = [file for certificate in certificates for file in (certificate.path, certificate.key)]
        rejected = [file for file in (*files, *authorities) if file is not None]
        store.rejected.update(rejected)
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            # The machine's fault, such as no free descriptors. It may pass.
            store.retry.update(dict.fromkeys(rejected))

    def _check_client_authority(self, tls: FrontendTls, path: ConfigPath) -> bool:
        is_usable = True
        for key, file in (("client_ca", tls.client_ca), ("client_crl", tls.client_crl)):
            if file is not None:
                self._store.remember_stat(file)
                is_usable &= _check_authority(file, path / key, self._store)
        if is_usable and tls.client_crl is not None:
            is_usable = self._read_revocations(tls.client_crl, path / "client_crl")
        return is_usable

    def _read_revocations(self, file: Path, path: ConfigPath) -> bool:
        try:
            self._store.revocations[file] = (path, next_update(file))
        except OSError as error:
            self._store.reject(path, file, error_reason(error), retry=True)
        except ValueError as error:
            self._store.reject(path, file, str(error))
        else:
            return True
        return False

    def _read_entry(self, entry: Path, key: Path | None, path: ConfigPath) -> list[Certificate]:
        """Read one item of ``certificates``: a file or a folder."""
        store = self._store
        store.remember_stat(entry)
        try:
            files = certificate_files(entry)
        except OSError as error:
            store.reject(path, entry, error_reason(error), retry=True)
            return self._reuse_previous(entry, key)
        if files == [entry]:
            certificate = self._read_file(entry, key, path)
            return self._reuse_previous(entry, key) if certificate is None else [certificate]
        store.folders.add(entry)
        if key is not None:
            fact = f"is a folder, and {key} is the key of one certificate: name its file"
            store.reject(path, entry, fact)
            return self._reuse_previous(entry, key)
        return self._read_folder(entry, files, path) or self._reuse_previous(entry, key)

    def _read_folder(self, folder: Path, files: list[Path], path: ConfigPath) -> list[Certificate]:
        store = self._store
        for file in files:
            store.remember_stat(file)  # also of files that are not served: a change may make them so
        served = served_files(files, is_authority) + self._inaccessible(folder, files)
        if not files and not served:
            store.reject(path, folder, "no .pem, .crt or .cer file in this folder")
        elif not served:
            store.reject(path, folder, "no certificate with its private key in this folder")
        certificates = (self._read_file(file, None, path) for file in served)
        return [certificate for certificate in certificates if certificate is not None]

    def _inaccessible(self, folder: Path, files: list[Path]) -> list[Path]:
        """Return previous files of subfolders that are no longer accessible, as after the change of user."""
        return [
            file
            for file, key in self._previous.certificates
            if key is None and folder in file.parents and file not in files and _is_inaccessible(file)
        ]

    def _reuse_previous(self, entry: Path, key: Path | None) -> list[Certificate]:
        """Keep using the certificates of a folder that is gone or has none left.

        Otherwise a reload in which the other entries of the bind can be used would drop its names.
        """
        reused = {
            files: certificate
            for files, certificate in self._previous.certificates.items()
            if entry in files[0].parents and files[1] == key
        }
        self._store.certificates.update(reused)
        self._store.rejected.update(file for file, _ in reused)
        return [certificate for _, certificate in reused.values()]

    def _read_managed(self, group: list[ManagedCertificate], path: ConfigPath) -> list[Certificate]:
        """Read the certificates that ACME has obtained for some names, one for each key type.

        Returns:
            Those that are there; without any, their placeholders.
        """
        store = self._store
        certificates = []
        for managed in group:
            file = managed.file
            store.remember_stat(file)
            _, previous = self._previous.certificates.get((file, None), (path, None))
            certificate = previous
            try:
                certificate = _read_if_changed(file, None, previous)
            except OSError as error:
                is_missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
                if previous is not None or not is_missing:
                    store.reject(
                        path, Path(error.filename or file), error_reason(error), retry=not is_missing
                    )
            except ValueError as error:
                if previous is not None:  # without one, it is obtained again
                    store.reject(path, file, str(error))
            if certificate is not None:
                store.certificates[file, None] = (path, certificate)
                certificates.append(certificate)
        return certificates or [self._placeholder(group[0])]

    def _placeholder(self, managed: ManagedCertificate) -> Certificate:
        placeholder = self._previous.placeholders.get(managed.file)
        is_refused = managed.acme.until_ready == "refuse"
        wanted = "refuse" if is_refused else "self-signed"
        if placeholder is None or placeholder.names != managed.names or placeholder.placeholder != wanted:
            placeholder = make_placeholder(managed.file, managed.names, is_refused=is_refused)
        self._store.placeholders[managed.file] = placeholder
        return placeholder

    def _read_file(
        self, file: Path, key: Path | None, path: ConfigPath, *, falls_back: bool = True
    ) -> Certificate | None:
        """Read a certificate with its key, once for all tables that name it.

        Returns:
            The certificate. If it cannot be used, the previous one, or None without one or if not
            ``falls_back``.
        """
        store = self._store
        if (file, key) in store.certificates:
            return store.certificates[file, key][1]
        _, previous = self._previous.certificates.get((file, key), (path, None))
        certificate = self._try_read(file, key, path, previous)
        if certificate is None or (key is None and certificate.key is not None):
            for candidate in possible_keys(file):  # where its key is, or may appear
                store.remember_stat(candidate)
        if certificate is None:
            store.rejected |= {file, *possible_keys(file)} | ({key} if key else set())
            if previous is None or not falls_back:
                return None
            certificate = previous
        elif not certificate.not_before <= datetime.now(UTC) <= certificate.not_after:
            dates = f"from {certificate.not_before:%Y-%m-%d} to {certificate.not_after:%Y-%m-%d}"
            store.expired.append(Fault(path, f"{display_path(file)}: is not in date: {dates}"))
        store.certificates[file, key] = (path, certificate)
        return certificate

    def _try_read(
        self, file: Path, key: Path | None, path: ConfigPath, previous: Certificate | None
    ) -> Certificate | None:
        store = self._store
        try:
            store.remember_stat(file)
            if key is not None:
                store.remember_stat(key)
            return _read_if_changed(file, key, previous)
        except OSError as error:
            store.reject(path, Path(error.filename or file), error_reason(error), retry=True)
        except PemFileError as error:  # of the certificate or of its key
            store.reject(path, error.path, str(error))
        except ValueError as error:
            store.reject(path, file, str(error))
        return None


def _read_if_changed(file: Path, key: Path | None, previous: Certificate | None) -> Certificate:
    """Read a certificate and its key, unless both are as they were.

    Raises:
        OSError: If one of them cannot be read.
        ValueError: If one of them cannot be used, or they do not belong together.
    """
    if previous is not None and _is_unchanged(previous, key):
        return previous
    certificate = read_certificate(file, key)
    _check_pair(certificate)
    return certificate


def _is_unchanged(previous: Certificate, key: Path | None) -> bool:
    """Whether the files of a certificate and its key are as they were.

    Args:
        previous: The certificate as it was read.
        key: The file of the key that the configuration names now, if it names one.

    Raises:
        OSError: If one of them cannot be examined.
    """
    stamp = file_stamp(previous.path)
    if previous.key is None:  # the key was in the certificate's own file
        return key is None and previous.stamps == (stamp,)
    if previous.key != (key or find_key(previous.path)):
        return False
    return previous.stamps == (stamp, file_stamp(previous.key))


def _is_inaccessible(file: Path) -> bool:
    """Whether the permissions, or the disk, hide whether a file exists."""
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return False


def _check_authority(file: Path, path: ConfigPath, store: CertificateStore) -> bool:
    """Whether a file has CA certificates or, at ``client_crl``, revocation lists.

    A file without them is rejected.
    """
    store.authorities.add(file)
    is_crl = path.key == "client_crl"
    content = "revocation list" if is_crl else "certificate"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        require_regular(file)
        context.load_verify_locations(file)
    except PemFileError as error:
        store.reject(path, file, str(error))
    except ssl.SSLError as error:
        store.reject(path, file, f"no {content} in PEM form ({error_reason(error)})")
    except OSError as error:
        store.reject(path, file, error_reason(error), retry=True)
    else:
        # OpenSSL accepts certificates where a list is expected, and the other way round.
        if context.cert_store_stats()["crl" if is_crl else "x509"]:
            return True
        store.reject(path, file, f"no {content} in PEM form")
    return False


def _check_pair(certificate: Certificate) -> None:
    """Load a certificate and its key into a context, as a bind does.

    Raises:
        OSError: With the file, if the machine fails or the key is encrypted.
        ValueError: With the fact, if OpenSSL does not accept them.
    """
    key = certificate.key
    try:
        load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate)
    except ssl.SSLError as error:
        raise ValueError(_pair_fact(error, key)) from None
    except OSError as error:
        raise OSError(error.errno, error_reason(error), str(key or certificate.path)) from None


def _pair_fact(error: ssl.SSLError, key: Path | None) -> str:
    if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        which = "the private key" if key is None else f"the private key in {display_path(key)}"
        return f"{which} does not belong to the certificate, which must be the first one in its file"
    if error.reason in (None, "NO_START_LINE", "PEM_LIB"):
        if key is not None:
            return f"{display_path(key)} has no private key in PEM form"
        return (
            "has no private key: put it into the same file, beside it with the suffix .key, or name it as key"
        )
    return f"cannot be used: {error_reason(error)}"


def _context_fault(path: ConfigPath, error: Exception) -> tuple[ConfigPath, str]:
    """Return path and fact of an error in making a context of the table at ``path``."""
    if isinstance(error, TlsKeyError):
        return path / error.key, str(error)
    return path, error_reason(error) if isinstance(error, OSError) else str(error)
