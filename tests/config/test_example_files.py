"""Example configurations: every file in ``config/`` loads and implements its layout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mailproxy
from mailproxy.app import advise, load_and_check
from mailproxy.config import Config
from mailproxy.testing import ThrowAwayCA

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "config").glob("*.toml"))

SCHEMA_LINE = "#:schema ./mailproxy.schema.json\n"
IMAP, IMAPS = "*:143", "*:993"

# For each layout: the binds with their modes, and the server port. None is the port of the client.
LAYOUTS: dict[str, tuple[dict[str, str], int | None]] = {
    "exchange-imap-forward.toml": ({IMAP: "forward"}, None),
    "exchange-imaps-forward.toml": ({IMAPS: "passthrough"}, None),
    "exchange-imaps-offload.toml": ({IMAPS: "tls"}, 143),
    "exchange-both-forward.toml": ({IMAP: "forward", IMAPS: "passthrough"}, None),
    "exchange-forward-and-offload.toml": ({IMAP: "forward", IMAPS: "tls"}, 143),
    "dovecot-passthrough.toml": ({IMAPS: "passthrough"}, 993),
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_loads(file: Path) -> None:
    config = mailproxy.load(file)
    assert isinstance(config, Config)
    assert config.source == str(file)
    assert all(frontend.backend_names for frontend in config.frontends.values())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_begins_with_its_purpose(file: Path) -> None:
    assert re.match(SCHEMA_LINE + r"# [A-Z].+\.\n", file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_lists_its_placeholders(file: Path) -> None:
    assert re.search(
        r"^# Put your .* in first: .* placeholders?\.$", file.read_text(encoding="utf-8"), re.MULTILINE
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_passes_check(file: Path, tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    """With addresses and certificates put in, ``check`` has only advice that the README mentions, too.

    These are the user, which the unit sets, and clear text, which needs a separate network.
    """
    certificate = throw_away_ca.issue("imap.example.com", folder=tmp_path)
    text = file.read_text(encoding="utf-8")
    for path in ("certs/", "client.pem"):
        text = text.replace(f"/etc/mailproxy/{path}", str(certificate))
    for path in ("ca.pem", "users-ca.pem"):
        text = text.replace(f"/etc/mailproxy/{path}", str(throw_away_ca.pem))
    copy = tmp_path / file.name
    copy.write_text(text, encoding="utf-8")
    config = mailproxy.load(copy)
    advice = advise(config, load_and_check(config))
    expected = [
        line
        for line in advice
        if line.path == "process.user" or "receives the client's TLS facts in clear text" in line.fact
    ]
    assert advice == expected


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_has_expected_binds_and_ports(name: str) -> None:
    binds, port = LAYOUTS[name]
    config = mailproxy.load(ROOT / "config" / name)
    assert {
        str(bind.address): bind.mode for frontend in config.frontends.values() for bind in frontend.bind
    } == binds
    (backend,) = config.backends.values()
    assert {getattr(server.address, "port", "none") for server in backend.servers} == {port}
    assert all(server.tls is None for server in backend.servers)
    assert (backend.protocol, backend.balance, len(backend.servers)) == ("imap", "leastconn", 2)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name.startswith("exchange")])
def test_exchange_layouts_share_their_profile(name: str) -> None:
    config = mailproxy.load(ROOT / "config" / name)
    (frontend,), (backend,) = config.frontends.values(), config.backends.values()
    assert (frontend.profile, backend.profile) == ("exchange", "exchange")
    timeouts = (frontend.timeouts.client, backend.timeouts.server, backend.timeouts.connect)
    assert timeouts == (1860.0, 1860.0, 5.0)
    assert all((bind.backlog, bind.tcp_user_timeout) == (10_000, 30.0) for bind in frontend.bind)
