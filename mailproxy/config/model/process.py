"""The tables ``[process]``, ``[admin]`` and ``[metrics]``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from attrs import frozen

from mailproxy.address import BindAddress, TcpAddress
from mailproxy.config.model.setting import setting
from mailproxy.config.model.tls import FrontendTls
from mailproxy.config.path import ROOT_PATH, ConfigPath
from mailproxy.config.values import Account, Mode, Positive, PositiveSeconds, Seconds, Workers


@frozen(kw_only=True)
class Process:
    """What holds for mailproxy as a whole: processes, user, and limits of all frontends together."""

    workers: Workers = setting("processes that serve sessions; auto: one for each CPU core", 1)
    relay: Literal["auto", "engine", "portable"] = setting(
        "how bytes are relayed",
        "auto",
        details="`engine` relays all sessions of a process in one task. `portable` uses two tasks for each session, and "
        "is there for comparison. `auto` is `engine` where the platform has epoll and splice.",
    )
    max_sessions: Positive | None = setting(
        "sessions at the same time, in all workers; at the limit, accepting waits",
        None,
        default_text="(descriptor limit - 200) / 2, times workers",
    )
    raise_descriptor_limit: bool = setting(
        "at start, raise the soft limit on open files to the hard limit",
        True,
        details="The limit is raised to 1048576 at most.",
    )
    drain_timeout: Seconds = setting("how long sessions may continue after SIGTERM", Seconds(30.0))
    idle_first: Seconds = setting(
        "draining ends sessions first that had no byte in either direction for this long",
        Seconds(30.0),
        details="Idle sessions end in the first three quarters of the time, the others in the last quarter. Sessions in "
        "which bytes move end at the deadline, if they have not ended by themselves.",
    )
    drain_rate: Positive = setting(
        "sessions that draining ends in a second at most, in all workers",
        Positive(200),
        details="More, if that is needed to meet the deadline. Fewer, if the time allows it: at least a tenth of it.",
    )
    state_file: Path | None = setting(
        "file that keeps what the operator has set, health of servers and stick tables over a restart",
        None,
        details="It is written every minute and at the end, and taken up at the start. Its folder must be writable for the "
        "user that sessions run as. Two running proxies must not share it.",
    )
    state_max_age: PositiveSeconds = setting("an older `state_file` is ignored", PositiveSeconds(300.0))
    pid_file: Path | None = setting(
        "file with the number of the process that takes signals, removed at the end",
        None,
        details="It is written before the change of user. A service manager does not need it. Embedded programs do not "
        "write it.",
    )
    certificate_interval: PositiveSeconds = setting(
        "how often the files of certificates, keys, CAs and CRLs are checked for changes",
        PositiveSeconds(10.0),
    )
    user: Account | None = setting("the user to run as, after sockets are bound and keys are read", None)
    group: Account | None = setting("the group to run as", None, default_text="the user's")


_ADMIN = ROOT_PATH / "admin"

AdminLevel = Literal["user", "operator", "admin"]


@frozen(kw_only=True)
class AdminSocket:
    """A socket on which the running proxy answers HAProxy's runtime commands.

    Either `path` or `address` is required.
    """

    path: Path | None = setting("path of a Unix socket", None)
    address: BindAddress | None = setting("loopback address and port, such as 127.0.0.1:9999", None)
    mode: Mode = setting("permission bits of the Unix socket", Mode(0o660))
    user: Account | None = setting("owner of the Unix socket", None)
    group: Account | None = setting("group of the Unix socket", None)
    level: AdminLevel = setting(
        "what its clients may do",
        "admin",
        details="`user` may look. `operator` may also list sessions, change servers, tables and counters. `admin` may "
        "also change frontends and limits.",
    )


@frozen(kw_only=True)
class Admin:
    """Admin sockets and HTTP.

    For one admin socket, give `socket` and `mode`. For several, or for other settings, give `[[admin.sockets]]`.
    """

    socket: Path | None = setting("path of the admin socket, for one with level admin", None)
    mode: Mode = setting("permission bits of that socket", Mode(0o660))
    sockets: tuple[AdminSocket, ...] = setting("several admin sockets", ())
    http: BindAddress | None = setting(
        "address and port of metrics, health and status by HTTP, such as 127.0.0.1:8405",
        None,
        details="It needs the extra `http` of the package. An address that is not this machine's own loopback address "
        "also needs `tls` and `token_file`.",
    )
    tls: FrontendTls | None = setting("TLS of `http`", None)
    token_file: Path | None = setting(
        "file with the token that HTTP clients may give commands with",
        None,
        details="A client sends it as `Authorization: Bearer TOKEN`. Without the file HTTP is read-only.",
    )

    @property
    def is_http_local(self) -> bool:
        """Whether `http` is a loopback address, which only users of this machine reach."""
        return isinstance(self.http, TcpAddress) and self.http.is_loopback

    @property
    def listening(self) -> Mapping[ConfigPath, AdminSocket]:
        """The admin sockets by the paths of their keys, in either form."""
        several = {_ADMIN / "sockets" / index: each for index, each in enumerate(self.sockets)}
        if self.socket is None:
            return several
        return {_ADMIN / "socket": AdminSocket(path=self.socket, mode=self.mode), **several}


@frozen(kw_only=True)
class Metrics:
    """What Prometheus gets."""

    haproxy_names: bool = setting(
        "also give the metrics that HAProxy has under its names",
        False,
        details="So dashboards and alerts for HAProxy work as they are.",
    )
