"""``show table``, ``set table``, ``clear table``: the stick tables, which have the names of their backends."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

import trio

from mailproxy.admin.runtime.call import Call, CommandError, Level
from mailproxy.admin.runtime.numbers import parse_number
from mailproxy.pool import StickTable, client_key
from mailproxy.proxy.backend.backend import Backend

_V6_MARK = 1 << 128  # as in the keys of ``client_key``
_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "eq": operator.eq, "ne": operator.ne, "le": operator.le, "ge": operator.ge, "lt": operator.lt, "gt": operator.gt,
}  # fmt: skip
_SERVER_ID = "data.server_id"


def show_table(call: Call, name: str = "", *words: str) -> str:
    """Answer ``show table [TABLE [data.server_id OPERATOR N | key KEY]]``."""
    if not name:
        return "".join(map(_head, _tables(call)))
    backend, stick = _table(call, name)
    is_wanted = _filter(backend, *words) if words else lambda _key, _server: True
    if call.client.level < Level.OPERATOR:
        return f"{_head(backend)}# contents not dumped due to insufficient privileges\n"
    now = trio.current_time()
    lines = [
        _line(backend, key, index, expires - now)
        for key, index, expires in stick.entries()
        if expires > now and is_wanted(key, index + 1)
    ]
    if words[:1] == ("key",) and not lines:
        return ""
    return _head(backend) + "".join(lines)


async def set_table(call: Call, name: str = "", *words: str) -> str:
    """Answer ``set table TABLE key KEY data.server_id N``."""
    if not name:
        raise CommandError("Required arguments: <table> key <key> [data.<store_data_type> <value>]*")
    backend, _ = _table(call, name)
    key = _key(backend, *words)
    what, number = (*words[2:4], "", "")[:2]
    if not what.startswith("data."):
        raise CommandError('"data.<type>" followed by a value expected')
    if what != _SERVER_ID:
        raise CommandError("Data type not stored in this table")
    server_id = parse_number(number)
    if server_id is None:
        raise CommandError("Require a valid integer value to store")
    if not 0 < server_id <= len(backend.servers):
        raise CommandError(f"There is no server {server_id} in this backend")
    await call.target.set_table(backend, key, backend.servers[server_id - 1])
    return ""


async def clear_table(call: Call, name: str = "", *words: str) -> str:
    """Answer ``clear table TABLE [key KEY]``."""
    required = 'Required arguments: <table> "data.<store_data_type>" <operator> <value> or <table> key <key>'
    if not name:
        raise CommandError(required)
    backend, _ = _table(call, name)
    if words and words[0] != "key":
        raise CommandError(required)
    await call.target.clear_table(backend, _key(backend, *words) if words else None)
    return ""


def _tables(call: Call) -> Iterator[Backend]:
    return (backend for backend in call.target.backends.values() if backend.pool.stick is not None)


def _table(call: Call, name: str) -> tuple[Backend, StickTable]:
    backend = call.target.backends.get(name)
    if backend is None or backend.pool.stick is None:
        raise CommandError("No such table")
    return backend, backend.pool.stick


def _key(backend: Backend, word: str = "", text: str = "", *_: str) -> int:
    if word != "key" or not text:
        raise CommandError("Key value expected")
    stick = backend.config.stick
    assert stick is not None  # noqa: S101 - the backend has a table
    try:
        return client_key(text, stick.prefix_v4, stick.prefix_v6)
    except ValueError:
        raise CommandError("Invalid key") from None


def _filter(backend: Backend, *words: str) -> Callable[[int, int], bool]:
    """Return whether an entry is wanted, given its key and the number of its server."""
    if words[0] == "key":
        key = _key(backend, *words)
        return lambda other, _: other == key
    if not words[0].startswith("data."):
        raise CommandError(
            'Optional argument only supports "data.<store_data_type>" <operator> <value> and key <key>'
        )
    what, name, number = (*words, "", "")[:3]
    if what != _SERVER_ID:
        raise CommandError("Filter entry #1: Data type not stored in this table")
    if name not in _OPERATORS:
        raise CommandError('Filter entry #1: Require and operator among "eq", "ne", "le", "ge", "lt", "gt"')
    server_id = parse_number(number)
    if server_id is None:
        raise CommandError("Filter entry #1: Require a valid integer value to compare against")
    return lambda _, server: _OPERATORS[name](server, server_id)


def _head(backend: Backend) -> str:
    stick = backend.pool.stick
    used = len(stick) if stick is not None else 0
    size = backend.config.stick.size if backend.config.stick is not None else 0
    return f"# table: {backend.name}, type: ip, size:{size}, used:{used}\n"


def _line(backend: Backend, key: int, index: int, left: float) -> str:
    server = backend.servers[index]
    return f"0x{key:x}: key={_address(key)} use=0 exp={int(left * 1000)} server_id={index + 1} server_key={server.name}\n"


def _address(key: int) -> str:
    """Return the network of a key, as its first address."""
    return str(IPv6Address(key ^ _V6_MARK)) if key & _V6_MARK else str(IPv4Address(key))
