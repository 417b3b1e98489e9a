"""An nginx that reads PROXY headers and relays the rest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from tests.support.programs.program import LogFile, Program, find

if TYPE_CHECKING:
    from pathlib import Path

MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"  # Debian's libnginx-mod-stream

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr info;
load_module {module};
events {{}}
stream {{
  log_format addresses '$proxy_protocol_addr $proxy_protocol_port'
    ' $proxy_protocol_server_addr $proxy_protocol_server_port $remote_addr $status';
  access_log {folder}/access.log addresses;
  server {{
    listen {host}:{port} proxy_protocol;
    proxy_pass {upstream_host}:{upstream_port};
  }}
}}
"""


@attrs.frozen
class LoggedClient:
    """The addresses that nginx read in a header, or empty strings, and the session's status: 200 is success."""

    client: str
    client_port: str
    destination: str
    destination_port: str
    sender: str
    status: str

    @classmethod
    def parse(cls, line: str) -> LoggedClient:
        return cls(*("" if word == "-" else word for word in line.split(" ")))


class Nginx(Program):
    """An nginx that expects PROXY headers and connects each session to `upstream` without one."""

    def __init__(self, host: str, port: int, *, upstream: tuple[str, int], folder: Path) -> None:
        self.address = (host, port)
        self.access_log = LogFile(folder / "access.log")
        file = folder / "nginx.conf"
        file.write_text(
            CONFIGURATION.format(
                host=host,
                port=port,
                folder=folder,
                module=MODULE,
                upstream_host=upstream[0],
                upstream_port=upstream[1],
            ),
            encoding="utf-8",
        )
        super().__init__([find("nginx"), "-c", str(file), "-e", "stderr"], folder, [self.address])

    def logged_client(self, client: tuple[str, int] | None = None) -> LoggedClient:
        """Return the logged client of the first finished session, or of the first one from this address and port."""
        start = r"\S+ \S+" if client is None else rf"{re.escape(client[0])} {client[1]}"
        return LoggedClient.parse(self.access_log.wait_for(re.compile(rf"{start} .+"))[0])
