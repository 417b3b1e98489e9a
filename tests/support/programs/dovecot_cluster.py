"""Several Dovecots with one mail store that can be killed, stopped and restarted, and mailproxy in front of them."""

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

BACKENDS = ("clear", "secure", "tcp-check")
"""Backends with the same servers: in clear text, over TLS, and in clear text with a check of type tcp."""

CHECK = 'interval = "300ms", timeout = "4s", fall = 2, rise = 2'

CONFIGURATION = """
[frontends.{backend}]
protocol = "imap"
backend = "{backend}"
tls = {{ certificates = ["{certificates}"] }}

[[frontends.{backend}.bind]]
address = "{host}:{port}"
mode = "tls"

[backends.{backend}]
send_proxy = "v2"
on_marked_down = "{on_marked_down}"
{settings}
servers = [
{servers}
]
"""


class RestartableDovecot(Dovecot):
    """A Dovecot whose processes are stopped or killed together.

    It expects PROXY headers on a clear port and on a TLS port.
    """

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
        self.log = LogFile(self.folder / "dovecot.log")  # the path in its configuration
        self._command = [find("setsid"), *self._command]  # its own process group

    def __exit__(self, *exception: object) -> None:
        self.kill()  # faster than a graceful stop
        super().__exit__(*exception)

    def restore(self) -> None:
        """Make it run again after a test."""
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
        """Wait for the last process. Until then one may listen and accept connections that no process serves."""
        wait_until(lambda: not list(processes_of_group(self.process.pid)), "all processes have exited")

    def suspend(self) -> None:
        """Stop all processes with SIGSTOP. The kernel still accepts connections, but no process answers."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        wait_until(
            lambda: all(state == "T" for _, state in processes_of_group(self.process.pid)),
            "all processes are stopped",
        )

    def resume(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)


class DovecotCluster:
    """Dovecots that run from the start of the `with` block."""

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


class ClusterProxy(Mailproxy):
    """A mailproxy with a TLS bind for each of `BACKENDS`, which have these Dovecots of the cluster as servers."""

    def __init__(
        self,
        cluster: DovecotCluster,
        names: Sequence[str],
        folder: Path,
        *,
        on_marked_down: str = "none",
        checks: bool = True,
        more: str = "",
    ) -> None:
        self.ca = cluster.authority.ca
        self.ports = dict(zip(BACKENDS, free_ports(len(BACKENDS), [HOST]), strict=True))
        check = f"check = {{ {CHECK} }}" if checks else 'check = "none"'
        settings = {
            "clear": check,
            "secure": f'{check}\ntls = {{ ca = "{self.ca}", server_name = "localhost" }}',
            "tcp-check": f'check = {{ type = "tcp", {CHECK} }}',
        }
        text = "".join(
            CONFIGURATION.format(
                backend=backend,
                certificates=cluster.authority.folder,
                host=HOST,
                port=self.ports[backend],
                on_marked_down=on_marked_down,
                settings=settings[backend],
                servers="\n".join(_server(cluster[name], backend) for name in names),
            )
            for backend in BACKENDS
        )
        log = '[log]\nformat = "tcplog"\nto = "stdout"\n'
        super().__init__(log + more + text, folder, [(HOST, port) for port in self.ports.values()])

    def wait_for(
        self, name: str, state: str, backends: Sequence[str] = ("clear", "secure")
    ) -> dict[str, str]:
        """Wait until all these backends have this server in this state. Return the logged reasons by backend."""
        pattern = r"Server {}/{} is {}, reason: (.*), check duration: \d+ms\. .*"
        return {
            backend: self.log.wait_for(re.compile(pattern.format(backend, name, state)))[1]
            for backend in backends
        }

    def has_logged(self, name: str, state: str, backend: str) -> bool:
        return f"Server {backend}/{name} is {state}" in self.log.text()


def unread_at(dovecot: RestartableDovecot) -> int:
    """Return the number of its connections with unread data."""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    ports = (dovecot.clear_port, dovecot.tls_port)
    return sum(
        int(local.partition(":")[2], 16) in ports and state == "01" and not queues.endswith(":00000000")
        for _, local, _, state, queues, *_ in map(str.split, lines)
    )


def _server(dovecot: RestartableDovecot, backend: str) -> str:
    port = dovecot.tls_port if backend == "secure" else dovecot.clear_port
    return f'  {{ name = "{dovecot.name}", address = "{HOST}:{port}" }},'
