"""The difference between two configurations, as lines for people, and what of it needs a restart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import attrs
from attrs import evolve, frozen

from mailproxy.address import DescriptorAddress, TcpAddress, UnixAddress
from mailproxy.config import model
from mailproxy.config.fields import keys_of
from mailproxy.config.path import ROOT_PATH
from mailproxy.config.units import write_duration
from mailproxy.config.values import (
    KeepAliveTime,
    LogTarget,
    Mode,
    PositiveSeconds,
    RatePeriod,
    Seconds,
)

K = TypeVar("K")
T = TypeVar("T")

_DURATIONS = (Seconds, PositiveSeconds, RatePeriod, KeepAliveTime)
_SINGLE_VALUES = (str, int, float, Path, TcpAddress, UnixAddress, DescriptorAddress, LogTarget)

# Processes are forked and privileges are dropped at the start.
_RESTART_PROCESS = ("relay", "raise_descriptor_limit", "user", "group", "state_file")
# They take effect when the address is bound, and the socket of an address that stays is never closed.
_RESTART_BIND = ("v6only", "interface", "free_bind", "unix_mode", "unix_user", "unix_group")

# The first port that a process without privileges may bind.
_UNPRIVILEGED_PORT = 1024

# What tables are called rather than what they do.
_NAMES = ("name", "profile")


@frozen(kw_only=True)
class Difference:
    """What changes from one configuration to another.

    Attributes:
        changes: One line for each change: ``+ server dovecot/d3 10.0.0.3:143`` (added), ``- bind imap *:143``
            (removed), ``~ server dovecot/d1 weight: 1 -> 5`` (changed).
        needs_restart: One line for each change that a running proxy cannot make.
        config: The new configuration, in which these keys have their old values.
    """

    changes: tuple[str, ...]
    needs_restart: tuple[str, ...]
    config: model.Config


class BindKey(NamedTuple):
    """What identifies a bind over a reload: its address, and its number among those with this address."""

    address: object
    occurrence: int


def compare(old: model.Config, new: model.Config, *, can_change_workers: bool = False) -> Difference:
    """Return what changes from ``old`` to ``new``.

    Args:
        old: The configuration in use.
        new: The next one.
        can_change_workers: Whether there is a supervisor, which starts and ends workers.
    """
    keys = _RESTART_PROCESS if can_change_workers else ("workers", *_RESTART_PROCESS)
    restart = [
        *_lines("process", old.process, new.process, only=keys),
        *_lines("tracing", old.tracing, new.tracing),
        *_lines("admin", old.admin, new.admin),
        *_privileged_listeners(old, new),
    ]
    process = evolve(new.process, **{key: getattr(old.process, key) for key in keys})
    binds = dict(_binds(old.frontends.values()))
    frontends = {}
    for name, frontend in new.frontends.items():
        kept = []
        for bind, key in zip(frontend.bind, bind_keys(frontend.bind), strict=True):
            before = binds.get((name, key), bind)
            restart += _lines(f"bind {name} {bind.address}", before, bind, only=_RESTART_BIND, dot=" ")
            kept.append(evolve(bind, **{option: getattr(before, option) for option in _RESTART_BIND}))
        frontends[name] = evolve(frontend, bind=tuple(kept))
    # The sockets are opened before privileges are dropped, and the process that serves them may have changed its user.
    config = evolve(new, process=process, tracing=old.tracing, admin=old.admin, frontends=frontends)
    return Difference(changes=tuple(_changes(old, config)), needs_restart=tuple(restart), config=config)


def _privileged_listeners(old: model.Config, new: model.Config) -> Iterator[str]:
    """Yield new listeners for http-01 that need privileges, which were given up at the start."""
    if old.process.user in (None, "root"):
        return
    bound = {acme.http_address for acme in old.acme.values()}
    for name, acme in new.acme.items():
        address = acme.http_address
        if (
            isinstance(address, TcpAddress)
            and address not in bound
            and 0 < (address.port or 0) < _UNPRIVILEGED_PORT
        ):
            yield f"acme {name} http: a listener on {address}"


def bind_keys(binds: Iterable[model.Bind]) -> list[BindKey]:
    """Return what identifies each of these binds over a reload."""
    seen: Counter[object] = Counter()
    keys = []
    for bind in binds:
        keys.append(BindKey(bind.address, seen[bind.address]))
        seen[bind.address] += 1
    return keys


def _binds(frontends: Iterable[model.Frontend]) -> Iterator[tuple[tuple[str, BindKey], model.Bind]]:
    for frontend in frontends:
        for bind, key in zip(frontend.bind, bind_keys(frontend.bind), strict=True):
            yield (frontend.name, key), bind


def _changes(old: model.Config, new: model.Config) -> Iterator[str]:
    yield from _lines("process", old.process, new.process)
    yield from _lines("log", old.log, new.log)
    yield from _lines("metrics", old.metrics, new.metrics)
    for name, acme_before, acme in _pairs(old.acme, new.acme):
        yield from _added_or_removed(f"acme {name}", acme_before, acme)
        if acme_before is not None and acme is not None:
            yield from _lines(str(ROOT_PATH / "acme" / name), acme_before, acme)
    for name, before, now in _pairs(old.frontends, new.frontends):
        yield from _added_or_removed(f"frontend {name}", before, now)
        yield from _frontend_changes(name, before, now)
    for name, backend_before, backend in _pairs(old.backends, new.backends):
        yield from _added_or_removed(f"backend {name}", backend_before, backend)
        yield from _backend_changes(name, backend_before, backend)


def _frontend_changes(name: str, old: model.Frontend | None, new: model.Frontend | None) -> Iterator[str]:
    old_binds, new_binds = _by_key(old), _by_key(new)
    for key, before, now in _pairs(old_binds, new_binds):
        title = f"bind {name} {key.address}"
        yield from _added_or_removed(title, before, now)
        if before is not None and now is not None and old is not None and new is not None:
            is_inherited = before.tls == old.tls and now.tls == new.tls
            yield from _lines(title, before, now, without=("tls",) if is_inherited else (), dot=" ")
    if old is not None and new is not None:
        yield from _lines(str(ROOT_PATH / "frontends" / name), old, new, without=("bind",))


def _backend_changes(name: str, old: model.Backend | None, new: model.Backend | None) -> Iterator[str]:
    old_servers = {server.name: server for server in old.servers} if old is not None else {}
    new_servers = {server.name: server for server in new.servers} if new is not None else {}
    for server, before, now in _pairs(old_servers, new_servers):
        title = f"server {name}/{server}"
        # The default name is the address.
        address = (before or now).address  # type: ignore[union-attr]  # one of them is there
        suffix = "" if server == str(address) else f" {address}"
        yield from _added_or_removed(f"{title}{suffix}", before, now)
        if before is not None and now is not None and old is not None and new is not None:
            inherited = [
                key
                for key in model.INHERITED_BY_SERVERS
                if getattr(before, key) == getattr(old, key) and getattr(now, key) == getattr(new, key)
            ]
            yield from _lines(title, before, now, without=inherited, dot=" ")
    if old is not None and new is not None:
        path = str(ROOT_PATH / "backends" / name)
        yield from _lines(path, old, new, without=("servers",))
        if list(old_servers) != list(new_servers) and old_servers.keys() == new_servers.keys():
            yield f"~ {path}.servers: order"


def _by_key(frontend: model.Frontend | None) -> dict[BindKey, model.Bind]:
    if frontend is None:
        return {}
    return dict(zip(bind_keys(frontend.bind), frontend.bind, strict=True))


def _pairs(old: Mapping[K, T], new: Mapping[K, T]) -> Iterator[tuple[K, T | None, T | None]]:
    """Yield what both, or one of them, have under each key: those that are gone first."""
    for key in (*(key for key in old if key not in new), *new):
        yield key, old.get(key), new.get(key)


def _added_or_removed(title: str, old: object | None, new: object | None) -> Iterator[str]:
    if old is None:
        yield f"+ {title}"
    elif new is None:
        yield f"- {title}"


def _lines(
    title: str,
    old: Any,
    new: Any,
    *,
    only: Sequence[str] | None = None,
    without: Sequence[str] = (),
    dot: str = ".",
) -> Iterator[str]:
    """Yield a line for each key of a table that has changed.

    Args:
        title: What the lines call the table.
        old: The table as it was, of a class of the model.
        new: The table as it is.
        only: The keys to compare; None for all.
        without: Keys to leave out.
        dot: What separates title and key.
    """
    for key in keys_of(type(old)).values():
        before, now = getattr(old, key.attribute), getattr(new, key.attribute)
        if before == now or key.name in (*_NAMES, *without) or (only is not None and key.name not in only):
            continue
        path = f"{title}{dot}{key.name}"
        if attrs.has(type(before)) and type(before) is type(now) and not isinstance(now, _SINGLE_VALUES):
            yield from _lines(path, before, now)
        elif all(value is None or isinstance(value, _SINGLE_VALUES) for value in (before, now)):
            yield f"~ {path}: {_display(before, key.annotation)} -> {_display(now, key.annotation)}"
        else:
            yield f"~ {path}"


def _display(value: object, annotation: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if annotation in _DURATIONS and isinstance(value, (int, float)):
        return write_duration(value)
    if annotation is Mode and isinstance(value, int):
        return f"{value:04o}"
    return str(value)
