"""Units and value types: what is accepted, what it means, and what is rejected."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mailproxy
from mailproxy.address import DescriptorAddress, TcpAddress, UnixAddress
from mailproxy.config import LogTarget, ServerTls
from mailproxy.config.units import parse_duration, parse_size, write_duration
from mailproxy.config.values import (
    VALUE_TYPES,
    Expanded,
    HostName,
    InvalidValueError,
    Mode,
    Network,
    Port,
    SniPatterns,
    Workers,
    as_name,
    one_of,
    to_display,
)
from tests.support.smallest_config import smallest_config

DAY_S = 86400


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("250us", 0.00025),
        ("300ms", 0.3),
        ("5s", 5),
        ("5", 5),
        ("31m", 1860),
        ("1h", 3600),
        ("1.5h", 5400),
        ("2d", 2 * DAY_S),
        ("0s", 0),
        (5, 5),
        (0.25, 0.25),
        (0, 0),
    ],
)
def test_duration_is_parsed(written: object, seconds: float) -> None:
    parsed = parse_duration(written)
    assert parsed == pytest.approx(seconds)
    assert type(parsed) is float


@pytest.mark.parametrize(
    "written",
    [
        "", "s", "5 s", "5S", "5 seconds", "-5s", "+5s", ".5s", "5.s", "1e3s", "5s ", "\u0665s", "4000d", "9" * 500,
        True, False, None, [], {}, -1, -0.1, float("nan"), float("inf"), 10**10, 10**400,
    ],
)  # fmt: skip
def test_invalid_duration_is_rejected(written: object) -> None:
    with pytest.raises(ValueError):
        parse_duration(written)


@given(st.integers(1, 10 * 365 * DAY_S * 1000))
def test_written_duration_round_trips(milliseconds: int) -> None:
    assert parse_duration(write_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0s"), (0.0003, "300us"), (0.3, "300ms"), (90, "90s"), (1860, "31m"), (7200, "2h"), (172800, "2d"), (5400, "90m")],
)  # fmt: skip
def test_duration_is_written_in_largest_dividing_unit(seconds: float, written: str) -> None:
    assert write_duration(seconds) == written


@pytest.mark.parametrize(
    ("written", "size"),
    [("200k", 204_800), ("200K", 204_800), ("1m", 2**20), ("2g", 2**31), ("7", 7), (7, 7), (0, 0), ("0", 0)],
)
def test_size_is_parsed(written: object, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize("written", ["", "k", "1.5k", "-1", "1 k", "1kb", "1" * 16, True, -1, 1.0, None, []])
def test_invalid_size_is_rejected(written: object) -> None:
    with pytest.raises(ValueError):
        parse_size(written)


@given(st.integers(min_value=0, max_value=10**15 - 1))
def test_size_units_are_powers_of_1024(count: int) -> None:
    for power, unit in enumerate(("", "k", "m", "g")):
        assert parse_size(f"{count}{unit}") == parse_size(f"{count}{unit.upper()}") == count * 1024**power


@pytest.mark.parametrize(
    ("value_type", "written", "parsed"),
    [
        (Port, 993, 993),
        (Port, Expanded("993"), 993),
        (Mode, "0660", 0o660),
        (Mode, "600", 0o600),
        (Network, "10.0.0.0/8", IPv4Network("10.0.0.0/8")),
        (Network, "192.0.2.7", IPv4Network("192.0.2.7/32")),
        (Network, "2001:db8::/32", IPv6Network("2001:db8::/32")),
        (Workers, 4, 4),
        (Workers, "auto", "auto"),
        (bool, True, True),
        (bool, Expanded("false"), False),
        (float, 1, 1.0),
        (float, Expanded("0.25"), 0.25),
        (SniPatterns, ["IMAP.example.com", "*.Example.org"], ("imap.example.com", "*.example.org")),
        (SniPatterns, False, False),
        (HostName, "imap.internal", "imap.internal"),
        (HostName, "imap.internal.", "imap.internal"),
        (HostName, "2001:db8::1", "2001:db8::1"),
    ],
)
def test_value_is_structured(value_type: Any, written: object, parsed: object) -> None:
    value = VALUE_TYPES[value_type].structure(written)
    assert value == parsed
    assert type(value) is type(parsed)


@pytest.mark.parametrize(
    ("value_type", "written"),
    [
        (Port, 0),
        (Port, "993"),
        (Port, Expanded("imaps")),
        (Port, Expanded("")),
        (Mode, 660),
        (Mode, 0o660),
        (Mode, "1777"),
        (Network, "10.0.0.1/8"),
        (Network, 10),
        (Workers, "many"),
        (Workers, True),
        (bool, 1),
        (bool, "true"),
        (bool, Expanded("yes")),
        (float, True),
        (float, "0.5"),
        (float, Expanded("1.5")),
        (SniPatterns, []),
        (SniPatterns, True),
        (SniPatterns, "imap.example.com"),
        (SniPatterns, ["imap.*.com"]),
        (SniPatterns, ["*"]),
        (SniPatterns, [""]),
        (HostName, ""),
        (HostName, "*"),
        (HostName, "imap.internal:993"),
        (HostName, "unix:/run/x.sock"),
    ],
)
def test_value_of_wrong_type_is_rejected(value_type: Any, written: object) -> None:
    with pytest.raises(InvalidValueError) as caught:
        VALUE_TYPES[value_type].structure(written)
    assert str(caught.value).startswith(f"{to_display(written)} is not allowed: ")
    assert str(caught.value).endswith(VALUE_TYPES[value_type].allowed)


def test_one_of_distinguishes_numbers_from_booleans() -> None:
    assert one_of((1, "none")).structure(1) == 1
    with pytest.raises(InvalidValueError):
        one_of((1, "none")).structure(True)
    with pytest.raises(InvalidValueError):
        one_of((1, "none")).structure(1.0)


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()))
def test_displayed_value_is_one_short_line(value: object) -> None:
    displayed = to_display(value)
    assert displayed.isprintable()
    assert 0 < len(displayed) <= 80


@pytest.mark.parametrize(
    ("value", "displayed"),
    [
        (True, "true"),
        ("a", '"a"'),
        ("a\nb\x1b", '"a\\u000ab\\u001b"'),
        ({"a": 1}, "a table"),
        (["a", {"b": 1}, True], "a list of tables"),
        (["a", 1, True], '["a", 1, true]'),
        ("x" * 100, f'"{"x" * 75}…"'),
    ],
)
def test_value_is_displayed_as_in_toml(value: object, displayed: str) -> None:
    assert to_display(value) == displayed


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1))
def test_any_text_can_become_a_name(text: str) -> None:
    smallest_config(
        f'frontends.imap.backend = "dovecot"\nfrontends."{as_name(text)}".bind = [{{ address = "*:1" }}]'
    )


@pytest.mark.parametrize(
    ("written", "syslog", "path"),
    [
        ("stderr", None, None),
        ("stdout", None, None),
        ("/var/log/mail.log", None, Path("/var/log/mail.log")),
        ("syslog:/dev/log", "/dev/log", None),
        ("syslog:127.0.0.1:514", ("127.0.0.1", 514), None),
        ("syslog:[::1]:5514", ("::1", 5514), None),
        ("syslog:logs.internal:514", ("logs.internal", 514), None),
    ],
)
def test_log_targets(written: str, syslog: object, path: Path | None) -> None:
    target = smallest_config(f'log.to = "{written}"').log.to
    assert target == LogTarget(written)
    assert (target.syslog, target.path) == (syslog, path)


def test_log_has_one_or_several_targets() -> None:
    single = smallest_config('log = { to = "stdout", format = "json", level = "error" }').log.outputs
    assert {str(path): (str(output.to), output.format, output.level) for path, output in single.items()} == {
        "log": ("stdout", "json", "error")
    }
    targets = (
        '{ to = "stderr" }',
        '{ to = "syslog:/dev/log", format = "tcplog", facility = "mail", tag = "mp" }',
        '{ to = "syslog:/dev/log", level = "error" }',
    )
    several = smallest_config(f"log.targets = [{', '.join(targets)}]").log.outputs
    assert [(str(path), output.format, output.facility, output.tag) for path, output in several.items()] == [
        ("log.targets[0]", "text", "local0", "mailproxy"),
        ("log.targets[1]", "tcplog", "mail", "mp"),
        ("log.targets[2]", "text", "local0", "mailproxy"),
    ]


def test_relative_paths_start_in_the_file_folder(tmp_path: Path) -> None:
    file = tmp_path / "mailproxy.toml"
    file.write_text("""
        log.to = "mail.log"
        frontends.imap.backend = "dovecot"
        frontends.imap.bind = [{ address = "unix:imap.sock", mode = "tls" }, "fd:3"]
        frontends.imap.tls = { certificates = ["certs/imap.pem"], key = "imap.key" }
        backends.dovecot.servers = ["unix:run/dovecot.sock"]
        backends.dovecot.tls = { ca = "ca.pem", server_name = "imap.internal" }
        backends.dovecot.check = { type = "script", address = "unix:run/check.sock", tls = { certificate = "c.pem", server_name = "a" }, steps = [
            { connect = { address = "unix:run/step.sock", tls = { ca = "step.pem", key = "step.key", certificate = "step.crt", server_name = "a" } } },
        ] }
    """)
    parsed = mailproxy.load(file)
    assert parsed.source == str(file)
    assert parsed.log.to.path == tmp_path / "mail.log"
    frontend, backend = parsed.frontends["imap"], parsed.backends["dovecot"]
    assert [bind.address for bind in frontend.bind] == [
        UnixAddress(str(tmp_path / "imap.sock")),
        DescriptorAddress(3),
    ]
    assert frontend.tls is not None
    assert [output.certificate for output in frontend.tls.certificates] == [tmp_path / "certs/imap.pem"]
    assert frontend.tls.key == tmp_path / "imap.key"
    assert backend.servers[0].address == UnixAddress(str(tmp_path / "run/dovecot.sock"))
    assert backend.tls is not None
    assert backend.tls.ca == tmp_path / "ca.pem"
    check = backend.servers[0].check
    assert check is not None
    assert check.address == UnixAddress(str(tmp_path / "run/check.sock"))
    assert isinstance(check.tls, ServerTls)
    assert check.tls.certificate == tmp_path / "c.pem"
    connect = check.steps[0].connect
    assert connect is not None
    assert connect.address == UnixAddress(str(tmp_path / "run/step.sock"))
    assert isinstance(connect.tls, ServerTls)
    assert (connect.tls.ca, connect.tls.certificate, connect.tls.key) == (
        tmp_path / "step.pem",
        tmp_path / "step.crt",
        tmp_path / "step.key",
    )


def test_certificate_with_separate_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MP_LIVE", "/etc/letsencrypt/live")
    file = tmp_path / "mailproxy.toml"
    file.write_text("""
        frontends.imap.bind = [{ address = "*:993", mode = "tls" }]
        frontends.imap.tls.certificates = [
            "certs/",
            { certificate = "fullchain.pem", key = "privkey.pem" },
            { certificate = "${MP_LIVE}/a/fullchain.pem", key = "${MP_LIVE}/a/privkey.pem" },
        ]
    """)
    tls = mailproxy.load(file).frontends["imap"].tls
    assert tls is not None
    live = Path("/etc/letsencrypt/live/a")
    assert [(output.certificate, output.key) for output in tls.certificates] == [
        (tmp_path / "certs", None),
        (tmp_path / "fullchain.pem", tmp_path / "privkey.pem"),
        (live / "fullchain.pem", live / "privkey.pem"),
    ]


def test_mapping_paths_start_in_given_or_current_folder(tmp_path: Path) -> None:
    mapping = {
        "log": {"to": "mail.log"},
        "frontends": {"imap": {"bind": [{"address": "127.0.0.1:0"}]}},
    }
    assert mailproxy.from_mapping(mapping, folder=tmp_path).log.to.path == tmp_path / "mail.log"
    assert mailproxy.from_mapping(mapping).log.to.path == Path.cwd() / "mail.log"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("*:143", "*:143"),
        ("[::]:993", "[::]:993"),
        ("unix:/run/imap.sock", "unix:/run/imap.sock"),
        ("fd:3", "fd:3"),
        ("[fe80::1%eth0]:143", "[fe80::1_eth0]:143"),
        ("unix:/run/a b+c.sock", "unix:/run/a_b_c.sock"),
    ],
)
def test_bind_name_defaults_to_its_address(address: str, name: str) -> None:
    bind = smallest_config(f'frontends.imap.bind = [{{ address = "{address}" }}]').frontends["imap"].bind[0]
    assert str(bind.address) == address
    assert bind.name == name


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.1:143", "192.0.2.1:143"),
        ("192.0.2.1", "192.0.2.1"),
        ("imap.internal:993", "imap.internal:993"),
        ("unix:/run/dovecot/imap.sock", "imap.sock"),
        ("unix:/run/dovecot/", "dovecot"),
        ("unix:/", "/"),
        ("[fe80::1%eth0]:143", "[fe80::1_eth0]:143"),
        (".".join(["a" * 60] * 4), ".".join(["a" * 60] * 4)[:128]),
    ],
)
def test_server_name_defaults_to_its_address(address: str, name: str) -> None:
    assert (
        smallest_config(f'backends.dovecot.servers = ["{address}"]').backends["dovecot"].servers[0].name
        == name
    )


def test_configuration_is_immutable() -> None:
    parsed = smallest_config("")
    with pytest.raises(AttributeError):
        parsed.log.level = "debug"  # type: ignore[misc]  # the assignment must fail


def test_server_addresses_are_parsed() -> None:
    servers = smallest_config(
        'backends.dovecot.servers = ["192.0.2.1:143", "[2001:DB8::0:1]:993", "imap.internal"]'
    ).backends
    assert [server.address for server in servers["dovecot"].servers] == [
        TcpAddress("192.0.2.1", 143),
        TcpAddress("2001:db8::1", 993),
        TcpAddress("imap.internal", None),
    ]
