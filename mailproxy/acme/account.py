"""The account of a storage folder: made once, and shared by all names."""

from __future__ import annotations

import hashlib
from typing import Any

from mailproxy.acme.client import AcmeClient
from mailproxy.acme.errors import AcmeError, ProblemError
from mailproxy.acme.keys import key_to_pem, make_key
from mailproxy.acme.storage import Storage
from mailproxy.config import Acme

_FILE = "account.json"


def open_account(acme: Acme, storage: Storage, directory: str) -> AcmeClient:
    """Return a client with the storage's account. Register it if there is none. Blocks on files and network.

    Args:
        acme: The authority's table.
        storage: The storage.
        directory: The authority's directory. Another one than before gets an account of its own.

    Raises:
        AcmeError: If the authority does not register it.
        StorageError: If the storage cannot be read or written.
    """
    known = _read(storage, directory)
    if known is None:
        known = {"directory": directory, "key": key_to_pem(make_key("ecdsa-p256")).decode(), "url": None}
        # The key first: after a crash, the next process finds the account by it.
        _write(storage, known)
    url = known.get("url")
    client = AcmeClient(acme, directory, str(known["key"]).encode(), url if isinstance(url, str) else None)
    if client.account_url is None:
        register(client, acme, storage)
    elif known.get("contact") != list(acme.contact):
        try:
            client.update_contact()
        except ProblemError as error:
            if error.kind != "accountDoesNotExist":
                raise
            register(client, acme, storage)
        _write(storage, {**known, "url": client.account_url, "contact": list(acme.contact)})
    return client


def register(client: AcmeClient, acme: Acme, storage: Storage) -> None:
    """Register the account's key, and store the account's URL. Blocks on files and network."""
    known = _read(storage, client.directory_url) or {}
    url = client.register(_read_hmac(acme))
    _write(storage, {**known, "url": url, "contact": list(acme.contact)})


def _read(storage: Storage, directory: str) -> dict[str, Any] | None:
    for name in (_FILE, _file_of(directory)):
        known = storage.read_json(name)
        if known is not None and known.get("directory") == directory and isinstance(known.get("key"), str):
            return known
    return None


def _write(storage: Storage, account: dict[str, Any]) -> None:
    other = storage.read_json(_FILE)
    if other is not None and other.get("directory") != account["directory"]:
        # The account of another authority stays: its certificates can be revoked with nothing else.
        storage.write_json(_file_of(str(other.get("directory"))), other)
    storage.write_json(_FILE, account)


def _file_of(directory: str) -> str:
    return f"account-{hashlib.sha256(directory.encode()).hexdigest()[:12]}.json"


def _read_hmac(acme: Acme) -> str | None:
    if acme.eab is None:
        return None
    try:
        return "".join(acme.eab.hmac_file.read_text(errors="replace").split())
    except OSError as error:
        raise AcmeError(f"eab.hmac_file {acme.eab.hmac_file}: {error.strerror or error}") from None
