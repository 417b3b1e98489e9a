"""The line for a place at a server: who comes first has it first, who waits too long or is one too many has none."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.support.patience import until
from tests.support.proxy.backend_cluster import Farm, TcpLine, is_served, served_by, turned_away
from tests.support.proxy.proxy_fixture import PATIENCE_S, Belongings

STICKY: dict[str, Any] = {"stick": {"on": "source"}}
QUICK: dict[str, Any] = {"timeouts": {"queue": "150ms"}}


# Who waits


async def test_over_max_sessions_guests_wait_and_the_server_does_not_hear_of_them(farm: Farm) -> None:
    server = await farm.server("s1", max_sessions=2)
    await farm.start()
    here = [await farm.welcome() for _ in range(2)]
    waiting = await farm.guest()
    await farm.lined_up(1)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert server.accepted == 2
    assert not waiting.received
    await farm.leave(here[0])
    assert await served_by(waiting) == "s1"
    for client in (here[1], waiting):
        await is_served(client)
        client.drop()


async def test_first_come_first_served(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.start()
    here = await farm.welcome()
    waiting = await farm.line_up(5)
    for client in waiting:
        await farm.leave(here)
        assert await served_by(client) == "s1"
        here = client


async def test_a_place_is_given_to_one_only(farm: Farm) -> None:
    server = await farm.server("s1", max_sessions=2)
    await farm.start()
    here = [await farm.welcome() for _ in range(2)]
    await farm.line_up(4)
    await farm.leave(here[0])
    await server.wait_for(3)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert server.accepted == 3
    assert farm.pool.waiting == 3
    assert farm.states["s1"].sessions == 2


async def test_a_server_with_a_place_is_taken_while_others_are_full(farm: Farm) -> None:
    await farm.server("small", max_sessions=1)
    await farm.server("large")
    await farm.start()
    for _ in range(5):
        await farm.welcome()
    assert farm.pool.waiting == 0
    assert (farm.states["small"].sessions, farm.states["large"].sessions) == (1, 4)


async def test_whichever_server_has_a_place_first_serves_who_waits_longest(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.server("s2", max_sessions=1)
    await farm.start(balance="first")
    first, second = await farm.welcome(), await farm.welcome()
    waiting = await farm.line_up(2)
    await farm.leave(second)
    assert await served_by(waiting[0]) == "s2"
    await farm.leave(first)
    assert await served_by(waiting[1]) == "s1"


async def test_what_was_said_in_the_line_reaches_the_server(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.start()
    here, client = await farm.welcome(), await farm.in_line()
    await client.send(b"EHLO impatient\r\n")
    await farm.leave(here)
    assert await served_by(client) == "s1"
    with trio.fail_after(PATIENCE_S):
        assert await client.receive_line() == b"EHLO impatient\r\n"


async def test_a_place_whose_server_refuses_goes_to_the_next(farm: Farm) -> None:
    server = await farm.server("s1", max_sessions=1)
    await farm.start()
    here = await farm.welcome()
    waiting = await farm.line_up(3)
    await server.close()
    here.drop()
    for client in waiting:
        await turned_away(client)
    ends = [line["end"] for line in await farm.scene.sessions(4)]
    assert ends[1:] == ["server-refused"] * 3
    assert farm.states["s1"].sessions == 0


# What the log says


async def test_positions_in_the_backends_line(farm: Farm) -> None:
    """As HAProxy counts them: those who were served before since one came, and oneself."""
    await farm.server("s1", max_sessions=1)
    await farm.start(tcplog=True)
    here = await farm.welcome()
    waiting = await farm.line_up(3)
    for client in waiting:
        await farm.leave(here)
        assert await served_by(client)
        here = client
    await farm.leave(here)
    assert [line.queue for line in await farm.tcp_lines(4)] == ["0/0", "0/1", "0/2", "0/3"]


async def test_positions_in_a_servers_own_line(farm: Farm) -> None:
    """Clients that stick wait for their server, although another one has nothing to do."""
    await farm.server("s1", max_sessions=1)
    idle = await farm.server("s2")
    await farm.start(tcplog=True, introduced=True, balance="first", **STICKY)
    here = await farm.welcome()
    waiting = await farm.line_up(3)
    assert idle.accepted == 0
    for client in waiting:
        await farm.leave(here)
        assert await served_by(client) == "s1"
        here = client
    await farm.leave(here)
    lines = await farm.tcp_lines(4)
    assert [line.queue for line in lines] == ["0/0", "1/0", "2/0", "3/0"]
    assert {line.place for line in lines} == {"b/s1"}


async def test_the_time_in_the_line_is_told(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.start()
    here, client = await farm.welcome(), await farm.in_line()
    began = trio.current_time()
    await trio.sleep(0.1)  # what is measured
    waited = trio.current_time() - began
    await farm.leave(here)
    await served_by(client)
    await farm.leave(client)
    first, second = await farm.scene.sessions(2)
    assert first["queue_ms"] == 0
    assert second["queue_ms"] >= int(waited * 1000)
    assert second["total_ms"] >= second["queue_ms"] + second["connect_ms"]


# Too long, and too many


async def test_who_waits_too_long_is_let_go(farm: Farm) -> None:
    server = await farm.server("s1", max_sessions=1)
    await farm.start(tcplog=True, **QUICK)
    here = await farm.welcome()
    began = trio.current_time()
    waiting = [await farm.guest() for _ in range(2)]
    for client in waiting:
        await turned_away(client)
    assert trio.current_time() - began >= 0.15
    assert await farm.tcp_lines(2) == [TcpLine("b/<NOSRV>", "sQ", "0", "0/1")] * 2
    assert server.accepted == 1
    assert farm.pool.waiting == 0
    await is_served(here)


async def test_who_waits_too_long_for_its_own_server_is_let_go(farm: Farm) -> None:
    """It is not sent to the one that is idle, and sticks to its own."""
    await farm.server("s1", max_sessions=1)
    idle = await farm.server("s2")
    await farm.start(introduced=True, balance="first", **STICKY, **QUICK)
    here = await farm.welcome()
    await turned_away(await farm.guest())
    line = await farm.scene.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == (
        "queue-timeout",
        "timeout",
        "queue",
        "sQ",
    )
    assert idle.accepted == 0
    await farm.leave(here)
    assert await farm.visit() == "s1"


async def test_who_is_let_go_leaves_its_place_in_the_line(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.start(timeouts={"queue": "300ms"})
    here = await farm.welcome()
    first = await farm.guest()
    await turned_away(first)
    second = await farm.guest()
    await farm.lined_up(1)
    await farm.leave(here)
    assert await served_by(second) == "s1"


@pytest.mark.parametrize("max_queue", [1, 3])
async def test_more_than_max_queue_are_refused_at_once(farm: Farm, max_queue: int) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.start(max_queue=max_queue)
    here = await farm.welcome()
    waiting = await farm.line_up(max_queue)
    for _ in range(2):
        await turned_away(await farm.guest())
    for line in await farm.scene.sessions(2):
        assert (line["end"], line["by"], line["phase"], line["state"]) == (
            "queue-full",
            "proxy",
            "queue",
            "SQ",
        )
        assert f"{max_queue} wait already" in line["detail"]
    await farm.leave(here)
    await farm.lined_up(max_queue - 1)
    waiting.append(await farm.guest())  # there is room again
    await farm.lined_up(max_queue)


async def test_max_queue_is_that_of_all_servers_together(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.server("s2", max_sessions=1)
    await farm.start(introduced=True, max_queue=2, balance="first", **STICKY)
    for host in ("192.0.2.1", "192.0.2.2"):
        await farm.welcome(host)
    for host in ("192.0.2.1", "192.0.2.2"):
        await farm.guest(host)
    await farm.lined_up(2)
    for host in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        await turned_away(await farm.guest(host))
    assert {line["end"] for line in await farm.scene.sessions(3)} == {"queue-full"}


async def test_nobody_is_refused_while_there_are_places(farm: Farm) -> None:
    await farm.server("s1")
    await farm.start(max_queue=1)
    for _ in range(5):
        await farm.welcome()


# A crowd


@pytest.mark.parametrize("servers", [1, 2])
async def test_a_crowd_through_few_places(farm: Farm, servers: int) -> None:
    """Everybody is served once, and never more at once than there are places."""
    count, places = 200, 3
    for number in range(servers):
        await farm.server(f"s{number + 1}", max_sessions=places)
    await farm.start()
    before = Belongings.now()
    served: list[int] = []
    inside = most = 0

    async def visit(number: int) -> None:
        nonlocal inside, most
        client = await farm.guest()
        assert await served_by(client)
        inside += 1
        most = max(most, inside)
        served.append(number)
        await is_served(client)
        inside -= 1  # before it leaves: as it counts for the proxy for a while yet, this is never too many
        await client.close()

    with trio.fail_after(3 * PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(visit, number)
    assert sorted(served) == list(range(count))
    assert most <= places * servers
    assert sum(server.accepted for server in farm.servers.values()) == count
    lines = await farm.scene.sessions(count)
    assert {line["end"] for line in lines} == {"client-closed"}
    assert [farm.counts(name).most_sessions for name in farm.servers] == [places] * servers
    assert [server.sessions for server in farm.states.values()] == [0] * servers
    await until(lambda: farm.pool.waiting == 0)
    await before.again()


async def test_a_crowd_of_which_many_give_up(farm: Farm) -> None:
    """By leaving, by a reset, by having waited too long: no place is lost over it, and none is given twice."""
    await farm.server("s1", max_sessions=2)
    await farm.start(timeouts={"queue": "200ms"})
    before = Belongings.now()

    async def visit(number: int) -> None:
        client = await farm.guest()
        match number % 4:
            case 0:
                client.drop()
            case 1:
                client.reset()
            case _:
                with trio.fail_after(PATIENCE_S):
                    await client.receive_line()
                await client.close()

    async with trio.open_nursery() as nursery:
        for number in range(120):
            nursery.start_soon(visit, number)
    await farm.scene.idle()
    await before.again()
    assert farm.states["s1"].sessions == farm.pool.waiting == 0
    assert farm.counts("s1").most_sessions == 2
    assert await farm.visit() == "s1"
