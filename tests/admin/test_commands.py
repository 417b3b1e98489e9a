"""The commands on a proxy in one process: what they answer, and what they do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import trio

import mailproxy
from tests.admin.conftest import Administered, open_administered
from tests.support.proxy.proxy_harness import ProxyHarness


async def greeting(administered: Administered) -> str:
    """The server that a new session gets. It ends at once."""
    connection = await administered.harness.dial(administered.harness.proxies[0])
    line = await connection.receive_line()
    await connection.close()
    await administered.harness.wait_until_idle()
    return line.decode().strip()


async def test_drained_server_gets_no_session_until_ready(administered: Administered) -> None:
    assert await administered.ask("set server b/s1 state drain") == ""
    assert [await greeting(administered) for _ in range(3)] == ["s2"] * 3
    assert (await administered.stat())["b", "s1"]["status"] == "DRAIN"
    await administered.ask("set server b/s1 state ready; set server b/s2 state maint")
    assert [await greeting(administered) for _ in range(2)] == ["s1"] * 2
    await administered.ask("enable server b/s2")
    assert {await greeting(administered) for _ in range(2)} == {"s1", "s2"}


async def test_weight_is_absolute_or_a_part_of_the_first(administered: Administered) -> None:
    assert await administered.ask("get weight b/s1") == "1 (initial 1)"
    await administered.ask("set weight b/s1 200; set server b/s2 weight 0%")
    assert await administered.ask("get weight b/s1; get weight b/s2") == "200 (initial 1)\n\n0 (initial 1)"
    assert [await greeting(administered) for _ in range(3)] == ["s1"] * 3


async def test_sessions_are_counted_with_their_bytes(administered: Administered) -> None:
    connection = await administered.harness.dial(administered.harness.proxies[0])
    server = (await connection.receive_line()).decode().strip()
    await connection.send(b"hello\r\n")
    await connection.receive_line()
    rows = await administered.stat()
    for row in (rows["f", "FRONTEND"], rows["b", "BACKEND"], rows["b", server]):
        assert (row["scur"], row["smax"], row["stot"], row["bin"], row["bout"]) == ("1", "1", "1", "7", "11")
    await connection.close()
    await administered.harness.wait_until_idle()
    rows = await administered.stat()
    for row in (rows["f", "FRONTEND"], rows["b", "BACKEND"], rows["b", server]):
        assert (row["scur"], row["smax"], row["stot"], row["bin"], row["bout"]) == ("0", "1", "1", "7", "11")


async def test_cleared_counters_begin_at_0(administered: Administered) -> None:
    await greeting(administered)
    await administered.ask("clear counters all")
    row = (await administered.stat())["f", "FRONTEND"]
    assert (row["smax"], row["stot"], row["bout"]) == ("0", "0", "0")
    await greeting(administered)
    row = (await administered.stat())["f", "FRONTEND"]
    assert (row["stot"], row["bout"]) == ("1", "4")


async def test_clear_counters_keeps_sums_and_forgets_maxima(administered: Administered) -> None:
    await greeting(administered)
    await administered.ask("clear counters")
    row = (await administered.stat())["f", "FRONTEND"]
    assert (row["smax"], row["stot"]) == ("0", "1")


async def test_clear_counters_forgets_the_longest_times(administered: Administered) -> None:
    connection = await administered.harness.dial(administered.harness.proxies[0])
    server = (await connection.receive_line()).decode().strip()
    await trio.sleep(0.02)
    await connection.close()
    await administered.harness.wait_until_idle()
    names = (("b", "BACKEND"), ("b", server))
    rows = await administered.stat()
    assert all(int(rows[name]["ttime_max"]) >= 20 for name in names)
    await administered.ask("clear counters")
    rows = await administered.stat()
    assert [rows[name]["ttime_max"] for name in names] == ["0", "0"]
    assert all(int(rows[name]["ttime"]) > 0 for name in names)  # averages go on


async def test_highest_number_of_sessions_is_exact_after_clear_counters(administered: Administered) -> None:
    """Also if it was reached and left between two looks at the figures."""
    await greeting(administered)
    await administered.ask("clear counters")
    await greeting(administered)
    rows = await administered.stat()
    assert (rows["f", "FRONTEND"]["smax"], rows["b", "BACKEND"]["smax"]) == ("1", "1")
    assert sorted(rows["b", name]["smax"] for name in ("s1", "s2")) == ["0", "1"]


async def test_events_are_the_last_of_the_log(administered: Administered) -> None:
    await administered.ask("set server b/s1 state drain")
    *_, last = (await administered.ask("show events")).splitlines()
    assert re.match(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d \w+: Server b/s1 enters drain state\.", last
    )
    for _ in range(600):
        await administered.ask("set server b/s1 state ready; set server b/s1 state drain")
    lines = (await administered.ask("show events")).splitlines()
    assert len(lines) == 1000
    assert lines[-1].split(" ", 2)[2].startswith("warning: Server b/s1 enters drain state.")


async def test_stopping_server_gets_no_new_clients(administered: Administered) -> None:
    assert await administered.ask("set server b/s1 health stopping") == ""
    rows = await administered.stat()
    assert rows["b", "s1"]["status"] == "NOLB"
    assert (await administered.states())["b/s1"]["srv_op_state"] == "3"
    assert {await greeting(administered) for _ in range(4)} == {"s2"}
    assert await administered.ask("set server b/s1 health up") == ""
    assert {await greeting(administered) for _ in range(4)} == {"s1", "s2"}
    messages = [
        line["message"] for line in administered.harness.lines() if line["event"].startswith("server-")
    ]
    assert [message.partition(".")[0] for message in messages[-2:]] == [
        "Server b/s1 is stopping, changed from CLI",
        "Server b/s1 is UP, changed from CLI",
    ]


async def test_server_without_checks_can_be_declared_down(administered: Administered) -> None:
    await administered.ask("set server b/s1 health down")
    rows = await administered.stat()
    assert (rows["b", "s1"]["status"], rows["b", "s1"]["check_status"]) == ("DOWN", "")
    assert {await greeting(administered) for _ in range(4)} == {"s2"}
    # Maintenance ends it, as it ends what checks have found out.
    await administered.ask("set server b/s1 state maint; set server b/s1 state ready")
    assert (await administered.stat())["b", "s1"]["status"] == "no check"
    await administered.ask("set server b/s1 health down; set server b/s1 health up")
    assert (await administered.stat())["b", "s1"]["status"] == "no check"


async def test_disabled_frontend_refuses_and_its_sessions_go_on(administered: Administered) -> None:
    proxy = administered.harness.proxies[0]
    connection = await administered.harness.dial(proxy)
    await connection.receive_line()
    assert await administered.ask("disable frontend f") == ""
    assert (await administered.stat())["f", "FRONTEND"]["status"] == "PAUSED"
    with pytest.raises(OSError, match="refused"):
        await administered.harness.dial(proxy)
    await connection.send(b"still here\r\n")
    assert await connection.receive_line() == b"still here\r\n"
    await connection.close()
    assert await administered.ask("enable frontend f") == ""
    assert await greeting(administered) in ("s1", "s2")
    assert await administered.ask("shutdown frontend f") == ""
    assert await administered.ask("enable frontend f") == "Frontend was previously shut down, cannot enable."


async def test_limit_of_a_frontend_lets_connections_wait(administered: Administered) -> None:
    proxy = administered.harness.proxies[0]
    await administered.ask("set maxconn frontend f 1")
    first, second = await administered.harness.dial(proxy), await administered.harness.dial(proxy)
    await first.receive_line()
    with trio.move_on_after(0.1) as waited:
        await second.receive_line()
    assert waited.cancelled_caught
    await administered.ask("set maxconn frontend f 2")
    assert (await second.receive_line()).decode().strip() in ("s1", "s2")
    assert (await administered.stat())["f", "FRONTEND"]["slim"] == "2"
    await first.close()
    await second.close()


async def test_limit_of_a_server_is_changed(administered: Administered) -> None:
    assert await administered.ask("set maxconn server b/s1 7") == ""
    assert (await administered.stat())["b", "s1"]["slim"] == "7"


async def test_address_of_a_server_is_changed(administered: Administered) -> None:
    other = await administered.harness.server()
    host, port = other.address.split(":")
    answer = await administered.ask(f"set server b/s1 addr {host} port {port}")
    assert answer.endswith(f"to '{port}' by 'stats socket command'")
    await administered.ask("set server b/s2 state maint")
    await greeting(administered)
    assert len(other.connections) == 1


async def test_session_is_listed_and_ended(administered: Administered) -> None:
    connection = await administered.harness.dial(administered.harness.proxies[0])
    server = (await connection.receive_line()).decode().strip()
    line = await administered.ask("show sess")
    assert f"fe=f be=b srv={server} " in line
    assert " bytes_in=0 bytes_out=4 " in line
    number = line.partition(":")[0]
    assert f"server={server} " in await administered.ask(f"show sess {number}")
    assert await administered.ask("show sess older 1h") == ""
    assert await administered.ask(f"show sess server b/{server}") != ""
    assert await administered.ask(f"shutdown session {number}") == ""
    assert await connection.receive_until_end() == b""
    await connection.close()
    assert (await administered.harness.session())["end"] == "killed"
    assert await administered.ask(f"shutdown session {number}") == "No such session (use 'show sess')."


async def test_stick_table_is_shown_set_and_cleared(harness: ProxyHarness, tmp_path: Path) -> None:
    backend = {"stick": {"size": 100, "expire": "1h"}}
    administered = await open_administered(harness, tmp_path)
    mapping = harness.mapping(
        "127.0.0.1:1", backends={"b": backend}, admin={"socket": str(tmp_path / "second.sock")}
    )
    harness.proxies.append(await harness.run_proxy(mapping))
    administered.path = tmp_path / "second.sock"
    assert await administered.ask("show table") == "# table: b, type: ip, size:100, used:0"
    await administered.ask(
        "set table b key 192.0.2.1 data.server_id 1; set table b key 2001:db8::1 data.server_id 1"
    )
    head, *lines = (await administered.ask("show table b")).splitlines()
    assert head.endswith("used:2")
    assert [line.split()[1] for line in lines] == ["key=192.0.2.1", "key=2001:db8::"]
    assert "server_id=1 server_key=127.0.0.1:1" in lines[0]
    await administered.ask("clear table b key 192.0.2.1")
    assert await administered.ask("show table b key 192.0.2.1") == ""
    await administered.ask("clear table b")
    assert (await administered.ask("show table b")).endswith("used:0")


@pytest.mark.parametrize("form", ["show info", "show stat"])
async def test_typed_and_json_output_agree(administered: Administered, form: str) -> None:
    typed = (await administered.ask(f"{form} typed")).splitlines()
    values = json.loads(await administered.ask(f"{form} json"))
    flat = [value for row in values for value in row] if form == "show stat" else values
    assert len(flat) == len(typed)
    for line, value in zip(typed, flat, strict=True):
        name, rest = line.split(".1:", 1)
        assert name.split(".")[-1] == value["field"]["name"]
        assert rest.split(":")[1] == value["value"]["type"]


@pytest.mark.parametrize(
    ("level", "allowed", "denied"),
    [
        (
            "user",
            ["show stat", "show info", "get weight b/s1", "show backend", "show table"],
            [
                "show sess",
                "show env",
                "show errors",
                "set weight b/s1 1",
                "clear counters",
                "disable frontend f",
            ],
        ),
        (
            "operator",
            [
                "show sess",
                "show errors",
                "set weight b/s1 1",
                "set server b/s1 state ready",
                "clear counters",
            ],
            ["clear counters all", "disable frontend f", "shutdown frontend f", "set maxconn global 5"],
        ),
    ],
)
async def test_level_decides_what_a_client_may(
    harness: ProxyHarness, tmp_path: Path, level: str, allowed: list[str], denied: list[str]
) -> None:
    path = tmp_path / "level.sock"
    sockets = [{"path": str(path), "level": level}]
    administered = await open_administered(harness, tmp_path, admin={"sockets": sockets})
    administered.path = path
    for command in allowed:
        assert "Permission denied" not in await administered.ask(command), command
    for command in denied:
        assert await administered.ask(command) == "Permission denied", command
    assert await administered.ask("show cli level") == level


async def test_client_can_lower_its_level(administered: Administered) -> None:
    assert await administered.ask("show cli level; user; show cli level; operator; show cli level") == (
        "admin\n\n\nuser\n\n\nuser"
    )
    assert await administered.ask("operator; show env; show sess; disable frontend f") != ""
    assert (await administered.ask("operator; disable frontend f")).endswith("Permission denied")


async def test_errors_are_marked_on_demand(administered: Administered) -> None:
    answer = await administered.ask("set severity-output number; set server b/x state ready; show version")
    assert answer.startswith("\n[3]:No such server.\n\n")
    assert "[3]" not in answer.partition("server.")[2]


async def test_help_lists_what_the_level_allows(administered: Administered) -> None:
    assert "disable frontend" in await administered.ask("help")
    lowered = await administered.ask("user; help")
    assert "disable frontend" not in lowered
    assert "show stat" in lowered
    assert [line.split()[:2] for line in (await administered.ask("help show servers")).splitlines()[1:3]] == [
        ["show", "servers"]
    ] * 2


async def test_certificates_are_listed_with_names_and_dates(harness: ProxyHarness, tmp_path: Path) -> None:
    path = tmp_path / "tls.sock"
    await harness.proxy("127.0.0.1:1", tls=True, admin={"socket": str(path)})
    administered = Administered(harness, path)
    assert (await administered.ask("show ssl cert")).splitlines() == ["# filename", str(harness.pem)]
    for name in (str(harness.pem), "imap.example.com"):
        answer = await administered.ask(f"show ssl cert {name}")
        assert f"Filename: {harness.pem}" in answer
        assert "DNS:imap.example.com" in answer
        assert "notAfter: " in answer
    assert (await administered.ask("show ssl cert none")).startswith("Can't display the certificate")


async def test_session_of_what_a_reload_has_removed_is_shown(administered: Administered) -> None:
    harness = administered.harness
    connection = await harness.dial(harness.proxies[0])
    server = (await connection.receive_line()).decode().strip()
    other = {"servers": ["127.0.0.1:9"], "check": "none"}
    mapping = harness.mapping(backends={"c": other}, admin={"socket": str(administered.path)})
    mapping["frontends"] = {"g": {**mapping["frontends"]["f"], "backend": "c"}}
    await harness.proxies[0].reload(mailproxy.from_mapping(mapping))
    details = await administered.ask("show sess all")
    assert "frontend=f (id=-1 mode=tcp)" in details
    assert "backend=b (id=-1 mode=tcp)" in details
    assert f"server={server} (id=-1)" in details
    await connection.close()
