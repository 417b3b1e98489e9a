"""The certificate store: the TLS files of a configuration, loaded, and their state before they were read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from attrs import Factory, define

from mailproxy.config import FrontendTls, ServerTls
from mailproxy.config.path import ConfigPath
from mailproxy.display_path import display_path
from mailproxy.errors import Fault
from mailproxy.net.tls.certificate import Certificate, file_stamp
from mailproxy.net.tls.certificate_files import certificate_files
from mailproxy.net.tls.context import Context
from mailproxy.net.tls.terminator import Terminator


@define
class CertificateStore:
    """What was loaded from the TLS files of a configuration.

    A *path* is that of the configuration's key which names a file, as in ``Fault``.

    Attributes:
        bind_terminators: The terminator of each bind, by name of the frontend and index of the bind.
        terminators: The same terminators by ``tls`` table: binds with equal tables share one.
        server_contexts: The contexts towards servers, by ``tls`` table.
        certificates: By file, and by the key's file where the configuration names one. Each with its path.
        placeholders: The placeholders of certificates that ACME has not obtained yet, by their file.
        revocations: The next update of each file of revocation lists, None if none says. Each with its path.
        expired: Certificates before or after their dates. They are faults only for ``mailproxy check``.
        faults: Everything that is wrong, in the order of the configuration.
        files: Every file and folder that was examined, with its state before it was read (see ``stat_file``).
        folders: The folders among ``files``.
        authorities: The files of CAs and revocation lists.
        rejected: Files with nothing new that can be used. What was loaded from them before stays in use.
        retry: Files that could not be used for a reason that may pass while they stay the same. A set in
            order.
        staged: Functions that take new contexts of binds into use, each with the path of its ``tls`` table.
            None if loading did that at once.
    """

    bind_terminators: dict[tuple[str, int], Terminator] = Factory(dict)
    terminators: dict[FrontendTls, Terminator] = Factory(dict)
    server_contexts: dict[ServerTls, Context] = Factory(dict)
    certificates: dict[tuple[Path, Path | None], tuple[ConfigPath, Certificate]] = Factory(dict)
    placeholders: dict[Path, Certificate] = Factory(dict)
    revocations: dict[Path, tuple[ConfigPath, datetime | None]] = Factory(dict)
    expired: list[Fault] = Factory(list)
    faults: list[Fault] = Factory(list)
    files: dict[Path, object] = Factory(dict)
    folders: set[Path] = Factory(set)
    authorities: set[Path] = Factory(set)
    rejected: set[Path] = Factory(set)
    retry: dict[Path, None] = Factory(dict)
    staged: list[tuple[ConfigPath, Callable[[], None]]] | None = None

    def add(self, path: ConfigPath, fact: str) -> None:
        """Add a fault, once."""
        fault = Fault(path, fact)
        if fault not in self.faults:
            self.faults.append(fault)

    def reject(self, path: ConfigPath, file: Path, fact: str, *, retry: bool = False) -> None:
        """Add a fault of a file.

        Args:
            path: The path of the key that names the file.
            file: The file, which goes to ``rejected``.
            fact: What is wrong with it.
            retry: Whether the next scan reads the file again even if it has not changed.
        """
        self.add(path, f"{display_path(file)}: {fact}")
        self.rejected.add(file)
        if retry:
            self.retry[file] = None

    def remember_stat(self, file: Path) -> None:
        """Record the state of a file or folder. Call it before reading.

        A change while the file is read then shows in the next scan.
        """
        self.files.setdefault(file, stat_file(file))

    def changed_files(self) -> list[Path]:
        """Return the files that are no longer as they were read, and those to retry. Blocks on files."""
        changed = [
            file for file, state in self.files.items() if file in self.retry or stat_file(file) != state
        ]
        return [*changed, *(file for file in self.retry if file not in self.files)]


def stat_file(file: Path) -> object:
    """Return a value that changes with the file, or with what a folder holds: the errno if it is missing."""
    try:
        stamp = file_stamp(file)
        return (stamp, tuple(certificate_files(file))) if file.is_dir() else stamp
    except OSError as error:
        return error.errno
