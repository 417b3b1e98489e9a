"""A Dovecot with its own folder and ports, users from a file, and mail in maildirs."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import tempfile
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Self

import attrs

from tests.support.programs.program import Program, find

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    import trustme

USERS = [f"user{n}" for n in range(500)]
PASSWORD = "secret"  # of throw-away users on loopback
MANY_SESSIONS = 1_000  # for every limit below, because the tests hold 500 sessions at once

CONFIGURATION = """
protocols = {protocols}
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
auth_failure_delay = 0
ssl_cert = <{folder}/server.pem
ssl_key = <{folder}/server.key
{services}
{settings}
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
service anvil {{
  chroot =
  client_limit = {thrice}
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  client_limit = {thrice}
}}
service stats {{
  client_limit = {twice}
}}
"""

SERVICE = """
service {name}-login {{
  chroot =
  service_count = {count}
  process_min_avail = 2
  process_limit = {processes}
  client_limit = {sessions}
{listeners}
}}
service {name} {{
  process_limit = {many}
}}
"""

Protocol = Literal["imap", "pop3", "submission", "sieve"]

SHARED_PROCESSES = {"count": 0, "processes": 2, "sessions": MANY_SESSIONS}
PROCESS_PER_SESSION = {"count": 1, "processes": MANY_SESSIONS, "sessions": 1}

BY_CERTIFICATE = """
passdb {{
  driver = passwd-file
  mechanisms = external
  args = username_format=%u {folder}/users-by-certificate
}}
"""

SETTINGS = {
    "ssl": "yes",
    "disable_plaintext_auth": "no",
    "auth_mechanisms": "plain login",
    "haproxy_trusted_networks": "127.0.0.0/8",
}
"""Settings of a Dovecot that is not given others."""

NAMES_FROM_CERTIFICATES = {
    "auth_mechanisms": "plain login external",
    "auth_ssl_username_from_cert": "yes",
}
"""Clients with a certificate need no password. For names in PROXY headers, `process_per_session` is necessary:
Dovecot 2.3.19 keeps them in memory that its process overwrites later."""


def require_client_certificates(ca: Path) -> dict[str, str]:
    """Return settings by which only connections with a certificate of this authority can log in."""
    return {
        "ssl_ca": f"<{ca}",
        "ssl_verify_client_cert": "yes",
        "ssl_require_crl": "no",
        "auth_ssl_require_client_cert": "yes",
    }


def relay_settings(address: tuple[str, int]) -> dict[str, str]:
    """Return the settings of the relay server, without which submission ends each session."""
    return {"submission_relay_host": address[0], "submission_relay_port": str(address[1])}


@attrs.frozen
class Service:
    """Dovecot's name for the programs of a protocol, and their default listeners."""

    name: str
    defaults: tuple[str, ...]


SERVICES: dict[Protocol, Service] = {
    "imap": Service("imap", ("imap", "imaps")),
    "pop3": Service("pop3", ("pop3", "pop3s")),
    "submission": Service("submission", ("submission",)),
    "sieve": Service("managesieve", ("sieve",)),
}
LOGIN_SERVICE = re.compile(r"^service (\w+)-login \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)


@attrs.frozen
class Listener:
    """A port: clear (with STARTTLS if TLS is enabled) or TLS, with or without a PROXY header in front.

    A listener that `is_configured` is already in the given configuration, so it is not written into it.
    """

    port: int
    protocol: Protocol = "imap"
    tls: bool = attrs.field(default=False, kw_only=True)
    proxied: bool = attrs.field(default=False, kw_only=True)
    is_configured: bool = attrs.field(default=False, kw_only=True)

    @classmethod
    def all_in(cls, configuration: str) -> tuple[Self, ...]:
        """Return the listeners in an administrator's configuration."""
        protocols: dict[str, Protocol] = {service.name: protocol for protocol, service in SERVICES.items()}
        return tuple(
            cls(int(port), protocols[name], is_configured=True)
            for name, listeners in LOGIN_SERVICE.findall(configuration)
            for port in re.findall(r"port = ([1-9]\d*)", listeners)
        )

    def __str__(self) -> str:
        words = {False: "no", True: "yes"}
        return (
            f"  inet_listener at-{self.port} {{\n    port = {self.port}\n"
            f"    ssl = {words[self.tls]}\n    haproxy = {words[self.proxied]}\n  }}"
        )


def _protocols(listeners: Collection[Listener]) -> list[Protocol]:
    return sorted({listener.protocol for listener in listeners})


def _services(listeners: Collection[Listener], login_processes: Mapping[str, int]) -> Iterator[str]:
    for protocol in _protocols(listeners):
        service = SERVICES[protocol]
        own = [str(each) for each in listeners if each.protocol == protocol and not each.is_configured]
        disabled = [f"  inet_listener {name} {{\n    port = 0\n  }}" for name in service.defaults]
        yield SERVICE.format(
            name=service.name,
            many=MANY_SESSIONS,
            listeners="\n".join([*disabled, *own]),
            **login_processes,
        )


class MailStore:
    """A folder of maildirs. Several Dovecots may share it, like the file system of a cluster."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="mail-"))
        if os.getuid() == 0:  # Dovecot does not access mail as root
            shutil.chown(self.path, "mail", "mail")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def deliver(self, user: str, message: bytes) -> None:
        """Store a message for a user that has not logged in yet."""
        folders = [self.path / user, *(self.path / user / part for part in ("cur", "new", "tmp"))]
        for folder in folders:
            folder.mkdir()
        file = self.path / user / "new" / "1.here"
        file.write_bytes(message)
        if os.getuid() == 0:
            for path in (*folders, file):
                shutil.chown(path, "mail", "mail")

    def forget(self, user: str) -> None:
        shutil.rmtree(self.path / user, ignore_errors=True)


@attrs.frozen
class Login:
    """A login in Dovecot's log: method, addresses, and as security `TLS`, `secured` or an empty string."""

    method: str
    client: str
    destination: str
    security: str


class Dovecot(Program):
    """A Dovecot that listens on one host, on a port for each listener.

    Args:
        settings: Dovecot's settings by name, which replace those in `SETTINGS` or are added to them.
        process_per_session: each session logs in by a process of its own, as in Dovecot's default.
        configuration: an administrator's configuration with listeners, in place of the settings. Its /etc/dovecot has
            server.pem, server.key and users-by-certificate.

    Attributes:
        address: the address of the first listener.
    """

    def __init__(
        self,
        host: str,
        *listeners: Listener,
        users: Iterable[str],
        store: MailStore,
        certificate: trustme.LeafCert,
        settings: Mapping[str, str] = MappingProxyType({}),
        process_per_session: bool = False,
        configuration: str = "",
    ) -> None:
        listeners = listeners or Listener.all_in(configuration)
        addresses = [(host, listener.port) for listener in listeners]
        self.address = addresses[0]
        # Not pytest's folder, because names of Unix sockets must be short.
        folder = Path(tempfile.mkdtemp(prefix="dovecot-"))
        folder.chmod(0o755)  # its processes run as several users
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        certificate.private_key_pem.write_to_path(folder / "server.key")
        users = list(users)
        _write_readable(folder / "users", [f"{user}:{PASSWORD}" for user in users])
        _write_readable(folder / "users-by-certificate", [f"{user}:::::::nopassword" for user in users])
        text = CONFIGURATION.format(
            protocols=" ".join(_protocols(listeners)),
            host=host,
            folder=folder,
            mail=store.path,
            settings=configuration.replace("/etc/dovecot/", f"{folder}/")
            or _lines(SETTINGS | {**settings}, folder),
            services="".join(
                _services(listeners, PROCESS_PER_SESSION if process_per_session else SHARED_PROCESSES)
            ),
            many=MANY_SESSIONS,
            twice=2 * MANY_SESSIONS,
            thrice=3 * MANY_SESSIONS,
            **_accounts(),
        )
        (folder / "dovecot.conf").write_text(text, encoding="utf-8")
        super().__init__([find("dovecot"), "-F", "-c", f"{folder}/dovecot.conf"], folder, addresses)

    def logins(self, user: str) -> list[Login]:
        pattern = rf"Login: user=<{user}>, method=(\w+), rip=([^,]+), lip=([^,]+),(?: mpid=\d+,)? (?:(TLS|secured), )?session="
        return [Login(*(word or "" for word in words)) for words in re.findall(pattern, self.log.text())]

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        shutil.rmtree(self.folder, ignore_errors=True)


def _lines(settings: Mapping[str, str], folder: Path) -> str:
    lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
    return lines + BY_CERTIFICATE.format(folder=folder)


def _write_readable(file: Path, lines: Iterable[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
    file.chmod(0o644)


def _accounts() -> dict[str, str]:
    """Return the accounts of the processes: Debian's if root starts them, otherwise the current user's."""
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
