"""Pages with commands for a running proxy: the commands are executed, in their order, and do what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailproxy.admin.runtime.commands import COMMANDS
from tests.support.pages import PAGES, Block, all_blocks, blocks
from tests.support.worker_group import GreetingServer, WorkerGroup, wait_until

MAILPROXY = Path(sys.executable).with_name("mailproxy")
TIMEOUT_S = 60


class Site(WorkerGroup):
    """A proxy with an admin socket, and a backend ``dovecot`` with two servers, d1 and d2."""

    def __init__(self, folder: Path, servers: dict[str, GreetingServer]) -> None:
        self.admin = folder / "admin.sock"
        items = ", ".join(
            f'{{ name = "{name}", address = "127.0.0.1:{server.port}" }}' for name, server in servers.items()
        )
        super().__init__(
            f"""
            admin.socket = "{self.admin}"
            frontends.imap = {{ backend = "dovecot", bind = ["127.0.0.1:0"] }}
            [backends.dovecot]
            balance = "roundrobin"
            stick = {{ on = "source", prefix_v4 = 32 }}
            check = {{ interval = "200ms" }}
            servers = [{items}]
            """,
            folder,
        )

    def follow(self, block: Block, **changes: str) -> str:
        """Run the commands of a block with this proxy's socket, and return what they print. None may fail."""
        text = block.text
        for old, new in changes.items():
            text = text.replace(old, new)
        ctl = f'mailproxy() {{ shift; {MAILPROXY} ctl -s {self.admin} "$@"; }}'
        result = subprocess.run(
            ["bash", "-e", "-o", "pipefail"], input=f"{ctl}\n{text}", capture_output=True, text=True, timeout=TIMEOUT_S
        )  # fmt: skip
        assert (result.returncode, result.stderr) == (0, ""), str(block)
        return result.stdout

    def ctl(self, *words: str) -> str:
        command = [str(MAILPROXY), "ctl", "-s", str(self.admin), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout

    def status_of(self, server: str) -> str:
        """Return the status of a server in ``show stat``."""
        return next(
            line.split(",")[17] for line in self.ctl("show", "stat").splitlines() if f",{server}," in line
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    servers = {name: GreetingServer(name) for name in ("d1", "d2")}
    with Site(tmp_path, servers) as proxy:
        yield proxy
    for server in servers.values():
        server.close()


def section(page: str, heading: str, *languages: str) -> list[Block]:
    """Return the blocks below a heading."""
    lines = PAGES[page].splitlines()
    first = next(number for number, line in enumerate(lines, 1) if re.fullmatch(f"##+ {heading}", line))
    last = next(
        (number for number, line in enumerate(lines, 1) if number > first and line.startswith("## ")),
        len(lines),
    )
    return [block for block in blocks(page, *languages) if first < block.line <= last]


@pytest.mark.slow
def test_drain_runbook_takes_a_server_out_and_back(site: Site) -> None:
    page = "docs/drain.md"
    clients = {server: site.connect(f"127.0.1.{number}") for number, server in ((1, "d1"), (2, "d2"))}
    assert {clients[server].greeting for server in clients} == {"d1", "d2"}
    (look,) = section(page, "1. Look first", "sh")
    assert {"dovecot,d1,1,1,UP", "dovecot,d2,1,1,UP"} <= set(site.follow(look).splitlines())
    (drain,) = section(page, "2. Drain", "sh")
    site.follow(drain, **{"10m": "3s"})
    (example,) = section(page, "3. Wait", "text")
    show, wait = section(page, "3. Wait", "sh")
    pattern = re.sub(r"\d+(?=[ s])", r"\\d+", example.text.strip())
    assert re.fullmatch(rf"({pattern})?\s*", site.follow(show))
    site.follow(wait)
    assert [f",{server},0," in site.follow(look) for server in ("d1", "d2")] == [False, True]
    (maint,) = section(page, "4. Work on the server", "sh")
    site.follow(maint)
    assert site.status_of("d2") == "MAINT"
    (ready,) = section(page, "5. Put it back", "sh")
    site.follow(ready)
    wait_until(lambda: site.status_of("d2") == "UP")


@pytest.mark.slow
def test_drain_runbook_can_be_cancelled_or_hurried(site: Site) -> None:
    page = "docs/drain.md"
    clients = [site.connect(f"127.0.1.{number}") for number in (1, 2)]
    on_d2 = next(client for client in clients if client.greeting == "d2")
    (cancel,) = section(page, "If you change your mind", "sh")
    site.follow(cancel)
    assert on_d2.echoes()
    assert site.status_of("d2") == "UP"
    (hurry,) = section(page, "If it is urgent", "sh")
    site.follow(hurry)
    assert on_d2.is_closed()
    (frontend,) = section(page, "A whole frontend, or the whole proxy", "sh")
    site.follow(frontend)
    assert site.connect().greeting == "d1"


@pytest.mark.slow
def test_pages_look_at_the_running_proxy(site: Site) -> None:
    assert site.connect("127.0.1.7").greeting in ("d1", "d2")
    (look,) = section("docs/upgrade.md", "Look afterwards", "sh")
    assert re.search(r"^Version: .*\nUptime: .*\nCurrConns: 1$", site.follow(look), re.MULTILINE)
    (table,) = section("docs/sticky.md", "See and change the table", "sh")
    assert "key=127.0.1.7" in site.follow(table, **{"198.51.100.7": "127.0.1.7"})


@pytest.mark.parametrize(
    "block", [block for block in all_blocks("sh", "text") if "mailproxy ctl" in block.text], ids=str
)
def test_commands_to_the_running_proxy_exist(block: Block) -> None:
    known = [each.words for each in COMMANDS]
    for line in re.findall(r"mailproxy ctl (?:-s \S+ )?([^|&;)#\n]+)", block.text):
        words = tuple(line.split())
        assert any(words[: len(each)] == each for each in known), line
