"""Dovecots with one store of mail, each of which may be killed, stopped or started again, and mailproxy in front of them."""

from __future__ import annotations

import os
import re
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.interop.scripted_session import HOST
from tests.support.ports import free_ports
from tests.support.programs.dovecot import USERS, Dovecot, Listener, MailStore
from tests.support.programs.program import LogFile, Mailproxy, find, processes_of_group, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.interop.conftest import Authority

WAYS = ("clear", "secure", "knocked")
"""Backends with the same servers: in clear, over TLS, and in clear with no more than a connection as their check."""

CHECK = 'interval = "300ms", timeout = "1s", fall = 2, rise = 2'

BACKEND = """
[frontends.{way}]
protocol = "imap"
backend = "{way}"
tls = {{ certificates = ["{certificates}"] }}

[[frontends.{way}.bind]]
address = "{host}:{port}"
mode = "tls"

[backends.{way}]
send_proxy = "v2"
on_marked_down = "{on_marked_down}"
{settings}
servers = [
{servers}
]
"""


class RestartableDovecot(Dovecot):
    """Whatever befalls it befalls every process of it. Takes PROXY headers on a clear port and on one for TLS."""

    def __init__(self, name: str, store: MailStore, authority: Authority) -> None:
        self.name = name
        self.clear_port, self.tls_port = free_ports(2, [HOST])
        super().__init__(
            HOST,
            Listener(self.clear_port, proxied=True),
            Listener(self.tls_port, tls=True, proxied=True),
            users=USERS,
            store=store,
            certificate=authority.certificate,
            settings={"login_greeting": f"{name} ready."},
        )
        self.log = LogFile(self.folder / "dovecot.log")  # as its configuration has it
        self._command = [find("setsid"), *self._command]  # a group of its own

    def __exit__(self, *exception: object) -> None:
        self.kill()  # faster than to wait for all to go
        super().__exit__(*exception)

    def restore(self) -> None:
        """Running, whatever happened."""
        if self.process.poll() is None:
            self.resume()
        else:
            self.start()

    def start(self) -> None:
        self.__enter__()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        code = super().stop(number)
        self._wait_for_group_exit()
        return code

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._wait_for_group_exit()

    def _wait_for_group_exit(self) -> None:
        """Until then somebody may listen, and take connections that nobody serves."""
        wait_until(lambda: not list(processes_of_group(self.process.pid)), "nobody of it is left")

    def suspend(self) -> None:
        """The kernel goes on taking connections for it, and nobody ever speaks."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        wait_until(
            lambda: all(state == "T" for _, state in processes_of_group(self.process.pid)), "it stands"
        )

    def resume(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)


class DovecotCluster:
    """They run from the beginning."""

    def __init__(self, authority: Authority, *names: str) -> None:
        self.authority = authority
        self._names = names
        self._running = ExitStack()
        self.dovecots: dict[str, RestartableDovecot] = {}

    def __enter__(self) -> Self:
        store = self._running.enter_context(MailStore())
        for name in self._names:
            dovecot = RestartableDovecot(name, store, self.authority)
            self.dovecots[name] = self._running.enter_context(dovecot)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def __getitem__(self, name: str) -> RestartableDovecot:
        return self.dovecots[name]

    def restore(self) -> None:
        for dovecot in self.dovecots.values():
            dovecot.restore()


class ProxyInFront(Mailproxy):
    """Each way has a TLS bind of its own, and all lead to these Dovecots of the cluster."""

    def __init__(
        self,
        cluster: DovecotCluster,
        names: Sequence[str],
        folder: Path,
        *,
        on_marked_down: str = "none",
        checks: bool = True,
    ) -> None:
        self.ca = cluster.authority.ca
        self.ports = dict(zip(WAYS, free_ports(len(WAYS), [HOST]), strict=True))
        check = f"check = {{ {CHECK} }}" if checks else 'check = "none"'
        settings = {
            "clear": check,
            "secure": f'{check}\ntls = {{ ca = "{self.ca}", server_name = "localhost" }}',
            "knocked": f'check = {{ type = "tcp", {CHECK} }}',
        }
        text = "".join(
            BACKEND.format(
                way=way,
                certificates=cluster.authority.folder,
                host=HOST,
                port=self.ports[way],
                on_marked_down=on_marked_down,
                settings=settings[way],
                servers="\n".join(_server(cluster[name], way) for name in names),
            )
            for way in WAYS
        )
        log = '[log]\nformat = "tcplog"\nto = "stdout"\n'
        super().__init__(log + text, folder, [(HOST, port) for port in self.ports.values()])

    def wait_for(self, name: str, state: str, ways: Sequence[str] = ("clear", "secure")) -> dict[str, str]:
        """Return what the log says that the reason is, by way, when this server is in this state on all of them."""
        pattern = r"Server {}/{} is {}, reason: (.*), check duration: \d+ms\. .*"
        return {way: self.log.wait_for(re.compile(pattern.format(way, name, state)))[1] for way in ways}

    def has_logged(self, name: str, state: str, way: str) -> bool:
        return f"Server {way}/{name} is {state}" in self.log.text()


def unread_at(dovecot: RestartableDovecot) -> int:
    """How many of its connections have something that it has not read."""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    ports = (dovecot.clear_port, dovecot.tls_port)
    return sum(
        int(local.partition(":")[2], 16) in ports and state == "01" and not queues.endswith(":00000000")
        for _, local, _, state, queues, *_ in map(str.split, lines)
    )


def _server(dovecot: RestartableDovecot, way: str) -> str:
    port = dovecot.tls_port if way == "secure" else dovecot.clear_port
    return f'  {{ name = "{dovecot.name}", address = "{HOST}:{port}" }},'
