"""A Postfix of its own: it takes mail with or without PROXY headers, and throws it away."""

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
OTHERS = ("pid", "private", "public", "saved", "trace")

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
smtpd_upstream_proxy_timeout = {patience}
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
    """Listens on one address with SMTP behind a PROXY header on one port and without one on another.

    What it says of its sessions is in `log`: `connect from unknown[203.0.113.5]`, `haproxy read: …`. Whom it takes for
    local may send mail anywhere, others only to mail.example: so what a header says has consequences.

    `settings` and `services` are lines of main.cf and master.cf besides those here; with a `certificate`, its
    /etc/postfix has server.pem and server.key.
    """

    def __init__(
        self,
        host: str,
        *,
        proxied_port: int,
        plain_port: int,
        patience_s: int = 2,
        settings: str = "",
        services: str = "",
        certificate: trustme.LeafCert | None = None,
    ) -> None:
        assert os.getuid() == 0, "only root can start Postfix"
        self.address = (host, plain_port)
        self.proxied_address = (host, proxied_port)
        folder = Path(tempfile.mkdtemp(prefix="postfix-"))  # not pytest's: names of unix sockets are short
        folder.chmod(0o755)  # its processes run as several users
        if certificate is not None:
            certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
            certificate.private_key_pem.write_to_path(folder / "server.key")
            settings = settings.replace("/etc/postfix/", f"{folder}/")
        main = MAIN.format(folder=folder, daemons=DAEMONS, patience=f"{patience_s}s", settings=settings)
        master = MASTER.format(
            proxied=f"{host}:{proxied_port}", plain=f"{host}:{plain_port}", services=services
        )
        (folder / "main.cf").write_text(main, encoding="ascii")
        (folder / "master.cf").write_text(master, encoding="ascii")
        os.utime(folder / "main.cf", (0, 0))  # Postfix waits where it was written to within a second
        _make_queues(folder)
        command = [
            find("setsid"),
            f"{DAEMONS}/master",
            "-c",
            str(folder),
            "-s",
        ]  # in the foreground, a group of its own
        super().__init__(command, folder, [self.address, self.proxied_address])

    def start(self) -> None:
        """Again, behind a stop."""
        self.__enter__()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        code = super().stop(number)
        wait_until(lambda: not list(processes_of_group(self.process.pid)), "its services went with it")
        return code

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        shutil.rmtree(self.folder, ignore_errors=True)


def _make_queues(folder: Path) -> None:
    """What `postfix check` would make."""
    (folder / "queue").mkdir()
    for name in (*QUEUES, *OTHERS):
        (folder / "queue" / name).mkdir()
        if name != "pid":
            shutil.chown(folder / "queue" / name, "postfix")
    (folder / "data").mkdir()
    shutil.chown(folder / "data", "postfix")
