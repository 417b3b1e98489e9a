"""One reload of the TLS files: what has changed is loaded and applied, what cannot be used is rejected.

A reload goes through five steps. ``CertificateWatcher`` starts it, at every interval or on request::

    scan       compare each file with its state when it was read ──► nothing has changed: None
     │         (in a thread, as the next two steps)
     ▼
    load       read the files again ──► rejected: a file cannot be used
     │         The previous content of such a file stays in use. If the reason may pass, the next scan
     │         reads the file again.
     ▼
    stage      make contexts for binds and servers ──► rejected, as above
     │         In a single process new handshakes use the contexts of binds from here on.
     ▼
    apply      in several processes only: change the contexts of binds, in the event loop, where handshakes
     │         begin ──► retry: a context cannot be changed, for example without free descriptors
     │         The scan is forgotten, so that the next one finds all its changes again.
     ▼
    publish    give contexts towards servers to the backends and the checks
               The control process also has each worker and the supervisor reload, so that workers forked
               later start with the new files. Then the result is logged.

``CertificateReloader`` does the first four steps and returns a ``ReloadResult``. Its callers publish that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from attrs import evolve, field, frozen

from mailproxy.certificates.expiry import expiry_warnings
from mailproxy.certificates.loader import reload_certificates
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config, ServerTls
from mailproxy.config.path import ConfigPath
from mailproxy.errors import Fault
from mailproxy.net.tls.certificate import Certificate
from mailproxy.net.tls.context import Context
from mailproxy.net.tls.errors import error_reason


@frozen(kw_only=True)
class ReloadResult:
    """The result of a reload.

    Attributes:
        applied: Files that are in use from now on, or no longer. Empty if there is something to retry.
        descriptions: What the log says about these files, without repetitions.
        rejected: Faults of files that cannot be used. What was loaded from them before stays in use.
        retry: Faults of contexts that could not be changed. The next scan finds all changes again.
        expiring: What of the new is out of date or soon will be.
        server_contexts: All contexts towards servers.
        staged: Functions that take the new contexts of binds into use, each with the path of its table.
    """

    applied: tuple[Path, ...]
    descriptions: tuple[str, ...] = ()
    rejected: tuple[Fault, ...]
    retry: tuple[Fault, ...] = ()
    expiring: tuple[Fault, ...] = ()
    server_contexts: Mapping[ServerTls, Context] = field(repr=False)
    staged: tuple[tuple[ConfigPath, Callable[[], None]], ...] = field(default=(), repr=False)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All that is not taken into use."""
        return (*self.rejected, *self.retry)


class CertificateReloader:
    """Scans the TLS files for changes, and loads and applies them.

    The methods that block on files are for a thread, one call at a time.

    Args:
        config: The configuration of ``store``.
        store: What was loaded at the start.
        stage: Change the contexts of binds in ``apply_staged`` and not in ``scan``. The contexts of unchanged
            names are kept then, and with them the keys of TLS session tickets, which several processes share.
    """

    def __init__(self, config: Config, store: CertificateStore, *, stage: bool = False) -> None:
        self._config = config
        self._store = store
        self._previous = store
        self._stage = stage

    @property
    def store(self) -> CertificateStore:
        """What is in use."""
        return self._store

    def scan(self, *, force: bool = False) -> ReloadResult | None:
        """Load the files that have changed since the last scan. Blocks on files.

        Args:
            force: Load even if nothing seems to have changed.

        Returns:
            The result so far, to be passed to ``apply_staged``. None if nothing has changed.
        """
        previous = self._store
        changed = previous.changed_files()
        if not changed and not force:
            return None
        self._previous = previous
        self._store = store = reload_certificates(self._config, previous, stage=self._stage)
        applied = dict(describe_changes(store, previous, changed))
        return ReloadResult(
            applied=tuple(applied),
            descriptions=tuple(dict.fromkeys(applied.values())),
            rejected=tuple(store.faults),
            expiring=tuple(expiry_warnings(store, previous)),
            server_contexts=store.server_contexts,
            staged=tuple(store.staged or ()),
        )

    def apply_staged(self, result: ReloadResult) -> ReloadResult:
        """Take the staged contexts into use. Does not block on files.

        Call it in the thread where handshakes begin: a context in use by several threads cannot be changed.

        Returns:
            The final result of the reload.
        """
        failures = []
        for path, apply in result.staged:
            try:
                apply()
            except OSError as error:
                failures.append(Fault(path, error_reason(error)))
        if not failures:
            return result
        self._store = self._previous
        return evolve(result, applied=(), descriptions=(), expiring=(), retry=tuple(failures))

    def expiring(self) -> list[Fault]:
        """Return warnings about certificates and revocation lists that are or soon will be out of date."""
        return list(expiry_warnings(self._store))


def describe_changes(
    store: CertificateStore, previous: CertificateStore, changed: Sequence[Path]
) -> Iterator[tuple[Path, str]]:
    """Yield each file that is in use from now on, or no longer, with its description for the log."""
    before = {certificate.path: certificate for _, certificate in previous.certificates.values()}
    now = {certificate.path: certificate for _, certificate in store.certificates.values()}
    by_key = {certificate.key: certificate for certificate in now.values() if certificate.key is not None}
    changed_set = set(changed)
    new = [
        path
        for path, certificate in now.items()
        if certificate != before.get(path) and certificate.key not in changed_set
    ]
    gone = [path for path in before if path not in now]
    for file in dict.fromkeys([*changed, *new, *gone]):
        certificate = now.get(file) or by_key.get(file)
        # The log names the files in a folder, not the folder.
        if file in store.rejected or file in store.folders:
            continue
        if certificate is not None:
            yield file, f"{_describe(certificate)} ({certificate.path})"
        elif file in before:
            yield file, f"{', '.join(before[file].names)} removed ({file})"
        elif file in store.authorities:
            yield file, str(file)


def _describe(certificate: Certificate) -> str:
    names = ", ".join(certificate.names) or "no name"
    return f"{names} until {certificate.not_after:%Y-%m-%d}"
