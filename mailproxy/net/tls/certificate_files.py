"""Which files of a folder hold certificates to serve, and where their private keys are.

Folders can be used as the common tools leave them. File names tell which tool it was:

- certbot and dehydrated: ``fullchain.pem`` with ``privkey.pem``. Beside them are ``cert.pem``, ``chain.pem``,
  and dehydrated's older files with a number.
- acme.sh: ``fullchain.cer`` with ``NAME.key``. Beside them are ``NAME.cer`` and ``ca.cer``.
- lego: ``NAME.crt`` with ``NAME.key``. Beside them is ``NAME.issuer.crt``.
- cert-manager: ``tls.crt`` with ``tls.key``. Beside them is ``ca.crt``.
- HAProxy: ``NAME.pem`` alone, or with ``NAME.pem.key`` or ``NAME.key``.

A key in the certificate's own file takes precedence: files beside it may be older. HAProxy, too, reads those
only if the certificate's file has no key.
"""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from attrs import frozen

_SUFFIXES = {".pem", ".crt", ".cer"}
_MAX_FILE_BYTES = 2**20  # a chain with its key takes a few thousand

_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
# Dehydrated keeps older files beside the links to the newest ones.
_OLDER = re.compile(r"(?:cert|chain|fullchain|privkey)-\d+\.pem")

# A subfolder with one of these files was written by one of the tools.
_CHAIN_NAMES = ("fullchain.pem", "fullchain.cer", "tls.crt")


class PemFileError(ValueError):
    """A file cannot hold a certificate or key. The message is the fact.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, fact: str) -> None:
        self.path = path
        super().__init__(fact)


def read_pem(path: Path) -> bytes:
    """Return the content of a PEM file.

    Raises:
        OSError: If it cannot be read.
        PemFileError: If it is larger than 1 MiB, or no regular file.
    """
    require_regular(path)
    with path.open("rb") as file:
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise PemFileError(path, f"is larger than {_MAX_FILE_BYTES} bytes")
    return data


def require_regular(path: Path) -> None:
    """Raise PemFileError for a pipe or device: reading it may never end.

    A folder passes, because opening it fails with a message of its own.

    Raises:
        OSError: If the file cannot be examined.
        PemFileError: If it is neither a regular file nor a folder.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise PemFileError(path, "is not a regular file")


def has_key(pem: bytes) -> bool:
    """Whether a PEM text has a private key, encrypted or not."""
    return _KEY.search(pem) is not None


def possible_keys(file: Path) -> list[Path]:
    """Return the files that may have the key of a certificate whose own file has none, likeliest first."""
    keys = [file.with_suffix(".key")] if file.suffix != ".key" else []
    keys.append(file.with_name(f"{file.name}.key"))
    if file.name in ("fullchain.pem", "cert.pem"):
        keys.append(file.with_name("privkey.pem"))
    if file.name == "fullchain.cer":
        keys += (each.with_suffix(".key") for each in sorted(file.parent.glob("*.cer")))
    return list(dict.fromkeys(keys))


def find_key(file: Path) -> Path | None:
    """Return the file with the key of a certificate whose own file has none. None if there is no such file.

    Raises:
        OSError: If the folder cannot be examined.
    """
    return next((key for key in possible_keys(file) if key.exists()), None)


def certificate_files(path: Path) -> list[Path]:
    """Return the path itself if it is a file, or the files of a folder that may be certificates.

    They are in alphabetical order, first those of the folder itself, then those of subfolders that certbot,
    dehydrated, acme.sh or cert-manager have written.

    Raises:
        OSError: If the folder cannot be read.
    """
    if not path.is_dir():
        return [path]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    files = list(filter(_is_candidate, entries))
    for folder in entries:
        with contextlib.suppress(OSError):  # not accessible, such as "private": not written for this user
            if any((folder / name).is_file() for name in _CHAIN_NAMES):
                files += sorted(filter(_is_candidate, folder.iterdir()))
    return files


def _is_candidate(file: Path) -> bool:
    is_hidden = file.name.startswith(".")
    return file.suffix in _SUFFIXES and not is_hidden and not file.is_fifo() and not _is_older(file)


def _is_older(file: Path) -> bool:
    return bool(_OLDER.fullmatch(file.name)) and file.with_name("fullchain.pem").exists()


@frozen
class _Content:
    """The content of a file of a folder.

    Attributes:
        pem: The text.
        certificates: The certificates in base64, without line ends.
        key: The file with the key of the first one, None if there is none.
    """

    pem: bytes
    certificates: tuple[bytes, ...]
    key: Path | None


def served_files(files: Iterable[Path], is_authority: Callable[[bytes], bool]) -> list[Path]:
    """Return the files of a folder whose certificates are to be served.

    Left out are companion files: a key that the certificate in another file uses, a certificate without key
    that another file has with its chain, and a CA without key. Files that are broken or cannot be read stay
    in: reading them then reports why.

    Args:
        files: The files of the folder.
        is_authority: Whether a PEM text begins with the certificate of a CA.

    Raises:
        OSError: If a file cannot be examined.
    """
    contents = {file: _content(file) for file in files}
    keys = {
        content.key
        for content in contents.values()
        if content is not None and content.certificates and content.key is not None
    }
    return [
        file
        for file, content in contents.items()
        if content is None or not _is_companion(file, content, contents, keys, is_authority)
    ]


def _content(file: Path) -> _Content | None:
    try:
        pem = read_pem(file)
        key = file if has_key(pem) else find_key(file)
    except (OSError, ValueError):
        return None
    return _Content(pem, tuple(b"".join(text.split()) for text in _CERTIFICATE.findall(pem)), key)


def _is_companion(
    file: Path,
    content: _Content,
    contents: dict[Path, _Content | None],
    keys: set[Path],
    is_authority: Callable[[bytes], bool],
) -> bool:
    if not content.certificates:
        return file in keys
    if content.key == file:
        return False
    if content.key is not None:
        return _has_full_chain_beside(file)
    served = (other for other in contents.values() if other is not None and other.key is not None)
    return any(content.certificates[0] in other.certificates for other in served) or is_authority(content.pem)


def _has_full_chain_beside(file: Path) -> bool:
    """Whether certbot, dehydrated or acme.sh wrote this certificate beside one with its chain."""
    if file.name == "cert.pem":
        return file.with_name("fullchain.pem").exists()
    is_named_like_its_key = file.suffix == ".cer" and file.with_suffix(".key").exists()
    return is_named_like_its_key and file.stem != "fullchain" and file.with_name("fullchain.cer").exists()
