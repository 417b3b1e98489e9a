"""Which files of a folder hold certificates to serve, and where each has its private key.

Folders are taken as the usual tools leave them, told by names:

- certbot and dehydrated: ``fullchain.pem`` with ``privkey.pem``; beside them ``cert.pem``, ``chain.pem``, and dehydrated's older
  files with a number;
- acme.sh: ``fullchain.cer`` with ``NAME.key``; beside them ``NAME.cer`` and ``ca.cer``;
- lego: ``NAME.crt`` with ``NAME.key``; beside them ``NAME.issuer.crt``;
- cert-manager: ``tls.crt`` with ``tls.key``; beside them ``ca.crt``;
- HAProxy: ``NAME.pem`` alone, or with ``NAME.pem.key`` or ``NAME.key``.

A key in the certificate's own file is the one that counts: files beside it may be older, and HAProxy reads them only where it has none.
"""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from attrs import frozen

_SUFFIXES = {".pem", ".crt", ".cer"}
_FILE_MAX = 2**20  # bytes; a chain with its key takes a few thousand

_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_OLDER = re.compile(
    r"(?:cert|chain|fullchain|privkey)-\d+\.pem"
)  # dehydrated keeps them beside the links to the newest

_SERVED_BY_TOOLS = ("fullchain.pem", "fullchain.cer", "tls.crt")
"""What makes a subfolder one that a tool has written."""


class PemFileError(ValueError):
    """A file cannot hold what is looked for in it; the message is the fact, ``path`` the file."""

    def __init__(self, path: Path, fact: str) -> None:
        self.path = path
        super().__init__(fact)


def read_pem(path: Path) -> bytes:
    """Raises OSError, PemFileError."""
    require_regular(path)
    with path.open("rb") as file:
        data = file.read(_FILE_MAX + 1)
    if len(data) > _FILE_MAX:
        raise PemFileError(path, f"is larger than {_FILE_MAX} bytes")
    return data


def require_regular(path: Path) -> None:
    """Raise PemFileError for a pipe or device, which may never end. Raises OSError. Opening a folder says that it is one."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise PemFileError(path, "is no regular file")


def has_key(pem: bytes) -> bool:
    """Is there a private key in it, be it encrypted?"""
    return _KEY.search(pem) is not None


def possible_keys(file: Path) -> list[Path]:
    """Where the key of a certificate can be that has none in its own file, the likeliest first."""
    keys = [file.with_suffix(".key")] if file.suffix != ".key" else []
    keys.append(file.with_name(f"{file.name}.key"))
    if file.name in ("fullchain.pem", "cert.pem"):
        keys.append(file.with_name("privkey.pem"))
    if file.name == "fullchain.cer":
        keys += (each.with_suffix(".key") for each in sorted(file.parent.glob("*.cer")))
    return list(dict.fromkeys(keys))


def find_key(file: Path) -> Path | None:
    """The file of the key of a certificate that has none in its own file; None if there is none. Raises OSError."""
    return next((key for key in possible_keys(file) if key.exists()), None)


def certificate_files(place: Path) -> list[Path]:
    """The file itself, or all that may be certificates in a folder, in alphabetical order. Raises OSError.

    After the folder's own files come those of subfolders that certbot, dehydrated, acme.sh or cert-manager have written.
    """
    if not place.is_dir():
        return [place]
    entries = sorted(entry for entry in place.iterdir() if not entry.name.startswith("."))
    files = list(filter(_may_be_certificate, entries))
    for folder in entries:
        with contextlib.suppress(OSError):  # one that may not be entered, such as "private", is none of ours
            if any((folder / name).is_file() for name in _SERVED_BY_TOOLS):
                files += sorted(filter(_may_be_certificate, folder.iterdir()))
    return files


def _may_be_certificate(file: Path) -> bool:
    is_hidden = file.name.startswith(".")
    return file.suffix in _SUFFIXES and not is_hidden and not file.is_fifo() and not _is_older(file)


def _is_older(file: Path) -> bool:
    return bool(_OLDER.fullmatch(file.name)) and file.with_name("fullchain.pem").exists()


@frozen
class _Content:
    """What is in a file of a folder. ``certificates``: their texts without line ends; ``key``: where the first one's key is."""

    pem: bytes
    certificates: tuple[bytes, ...]
    key: Path | None


def served_files(files: Iterable[Path], is_authority: Callable[[bytes], bool]) -> list[Path]:
    """Those of a folder's files whose certificates are to be served.

    Left out is what only goes with others: a key that another file's certificate uses, a certificate without key that another
    file has with its chain, a CA without key; ``is_authority`` says of the text of a file whether it begins with a CA's
    certificate. What is broken or cannot be read is not left out: reading it says why. Raises OSError.
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
        if content is None or not _goes_with_others(file, content, contents, keys, is_authority)
    ]


def _content(file: Path) -> _Content | None:
    try:
        pem = read_pem(file)
        key = file if has_key(pem) else find_key(file)
    except (OSError, ValueError):
        return None
    return _Content(pem, tuple(b"".join(text.split()) for text in _CERTIFICATE.findall(pem)), key)


def _goes_with_others(
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
    """Is it the certificate alone, as certbot, dehydrated and acme.sh write it beside the one with its chain?"""
    if file.name == "cert.pem":
        return file.with_name("fullchain.pem").exists()
    is_named_like_its_key = file.suffix == ".cer" and file.with_suffix(".key").exists()
    return is_named_like_its_key and file.stem != "fullchain" and file.with_name("fullchain.cer").exists()
