"""A Postfix that accepts mail with or without PROXY headers and discards it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.programs.program import Program, find, processes_of_group, wait_until

if TYPE_CHECKING:
    import trustme

DAEMONS = "/usr/lib/postfix/sbin"  # Debian's
QUEUES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop")
OTHER_FOLDERS = ("pid", "private", "public", "saved", "trace")

MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
daemon_directory = {daemons}
maillog_file = {folder}/postfix.log
maillog_file_prefixes = {folder}
myhostname = postfix.example
mydestination =
alias_maps =
local_recipient_maps =
inet_protocols = all
smtputf8_enable = no
smtpd_peername_lookup = no
mynetworks = 127.0.0.0/8
relay_domains = mail.example
smtpd_relay_restrictions = permit_mynetworks reject_unauth_destination
smtpd_client_connection_count_limit = 0
smtpd_upstream_proxy_timeout = {header_timeout}
default_transport = discard:
relay_transport = discard:
{settings}
"""

MASTER = """
{proxied} inet n - n - - smtpd
  -o smtpd_upstream_proxy_protocol=haproxy
{plain} inet n - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
bounce unix - - n - 0 bounce
cleanup unix n - n - 0 cleanup
defer unix - - n - 0 bounce
discard unix - - n - - discard
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
trace unix - - n - 0 bounce
{services}
"""


class Postfix(Program):
    """A Postfix that listens on one host: on one port with a PROXY header in front of SMTP, on another without.

    Its sessions are in `log`: `connect from unknown[203.0.113.5]`, `haproxy read: …`. Local clients may send mail
    anywhere, others only to mail.example, so that the address in a header has an effect.

    Args:
        settings: additional lines of main.cf.
        services: additional lines of master.cf.
        certificate: its /etc/postfix has server.pem and server.key if this is given.
    """

    def __init__(
        self,
        host: str,
        *,
        proxied_port: int,
        plain_port: int,
        header_timeout_s: int = 2,
        settings: str = "",
        services: str = "",
        certificate: trustme.LeafCert | None = None,
    ) -> None:
        assert os.getuid() == 0, "only root can start Postfix"
        self.address = (host, plain_port)
        self.proxied_address = (host, proxied_port)
        # Not pytest's folder, because names of Unix sockets must be short.
        folder = Path(tempfile.mkdtemp(prefix="postfix-"))
        folder.chmod(0o755)  # its processes run as several users
        if certificate is not None:
            certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
            certificate.private_key_pem.write_to_path(folder / "server.key")
            settings = settings.replace("/etc/postfix/", f"{folder}/")
        header_timeout = f"{header_timeout_s}s"
        main = MAIN.format(folder=folder, daemons=DAEMONS, header_timeout=header_timeout, settings=settings)
        master = MASTER.format(
            proxied=f"{host}:{proxied_port}", plain=f"{host}:{plain_port}", services=services
        )
        (folder / "main.cf").write_text(main, encoding="ascii")
        (folder / "master.cf").write_text(master, encoding="ascii")
        os.utime(folder / "main.cf", (0, 0))  # Postfix waits if the file is newer than a second
        _make_queues(folder)
        # In the foreground, in its own process group.
        command = [find("setsid"), f"{DAEMONS}/master", "-c", str(folder), "-s"]
        super().__init__(command, folder, [self.address, self.proxied_address])

    def start(self) -> None:
        """Start it again after a stop."""
        self.__enter__()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        code = super().stop(number)
        wait_until(lambda: not list(processes_of_group(self.process.pid)), "its services have exited")
        return code

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        shutil.rmtree(self.folder, ignore_errors=True)


def _make_queues(folder: Path) -> None:
    """Make the folders that `postfix check` would make."""
    (folder / "queue").mkdir()
    for name in (*QUEUES, *OTHER_FOLDERS):
        (folder / "queue" / name).mkdir()
        if name != "pid":
            shutil.chown(folder / "queue" / name, "postfix")
    (folder / "data").mkdir()
    shutil.chown(folder / "data", "postfix")
