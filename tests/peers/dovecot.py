"""A Dovecot of its own: own folder, own ports, users from a file, mail in maildirs."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .programs import Program, find

if TYPE_CHECKING:
    from collections.abc import Iterable

    import trustme

PASSWORD = "secret"  # of throw-away users on loopback
MANY_SESSIONS = 1_000  # what every limit below is raised to: the tests hold 500 at once

CONFIGURATION = """
protocols = imap
listen = {host}
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
default_internal_user = {internal_user}
default_internal_group = {internal_group}
default_login_user = {login_user}
default_client_limit = {many}
first_valid_uid = 1
mail_location = maildir:{mail}/%u
mail_max_userip_connections = 0
mail_fsync = never
disable_plaintext_auth = no
auth_mechanisms = plain login
ssl = yes
ssl_cert = <{folder}/certificate.pem
ssl_key = <{folder}/certificate.pem
namespace inbox {{
  inbox = yes
}}
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {folder}/users
}}
userdb {{
  driver = static
  args = uid={mail_user} gid={mail_group} home={mail}/%u
}}
service imap-login {{
  chroot =
  service_count = 0
  process_min_avail = 2
  process_limit = 2
  client_limit = {many}
  inet_listener imap {{
    port = {clear_port}
  }}
  inet_listener imaps {{
    port = {tls_port}
    ssl = yes
  }}
}}
service imap {{
  process_limit = {many}
}}
service anvil {{
  chroot =
  client_limit = {thrice}
}}
service auth {{
  client_limit = {thrice}
}}
service stats {{
  client_limit = {twice}
}}
"""


class MailStore:
    """A folder of maildirs, which several Dovecots may share as they would a cluster's file system."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="mail-"))
        if os.getuid() == 0:  # Dovecot touches no mail as root
            shutil.chown(self.path, "mail", "mail")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def forget(self, user: str) -> None:
        shutil.rmtree(self.path / user, ignore_errors=True)


class Dovecot(Program):
    """Listens on one address with IMAP (and STARTTLS) on one port and IMAP over TLS on another."""

    def __init__(
        self,
        host: str,
        *,
        clear_port: int,
        tls_port: int,
        users: Iterable[str],
        store: MailStore,
        certificate: trustme.LeafCert,
    ) -> None:
        self.address = (host, clear_port)
        self.tls_address = (host, tls_port)
        folder = Path(tempfile.mkdtemp(prefix="dovecot-"))  # not pytest's: names of unix sockets are short
        folder.chmod(0o755)  # its processes run as several users
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / "certificate.pem")
        (folder / "users").write_text("".join(f"{user}:{PASSWORD}\n" for user in users), encoding="ascii")
        (folder / "users").chmod(0o644)
        configuration = CONFIGURATION.format(
            host=host,
            folder=folder,
            mail=store.path,
            clear_port=clear_port,
            tls_port=tls_port,
            many=MANY_SESSIONS,
            twice=2 * MANY_SESSIONS,
            thrice=3 * MANY_SESSIONS,
            **_accounts(),
        )
        (folder / "dovecot.conf").write_text(configuration, encoding="utf-8")
        super().__init__(
            [find("dovecot"), "-F", "-c", f"{folder}/dovecot.conf"],
            folder,
            [self.address, self.tls_address],
        )

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        shutil.rmtree(self.folder, ignore_errors=True)


def _accounts() -> dict[str, str]:
    """Who the processes run as: Debian's accounts if root starts them, else all as whoever does."""
    if os.getuid() == 0:
        return {
            "internal_user": "dovecot",
            "internal_group": "dovecot",
            "login_user": "dovenull",
            "mail_user": "mail",
            "mail_group": "mail",
        }
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    return {
        "internal_user": user,
        "internal_group": group,
        "login_user": user,
        "mail_user": user,
        "mail_group": group,
    }
