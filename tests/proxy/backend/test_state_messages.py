"""Messages about state changes of servers, word by word, because monitoring searches for HAProxy's sentences."""

from __future__ import annotations

import pytest
import trio

from mailproxy.pool import AdminState, Waiter
from mailproxy.protocol.checks.result import CheckCode, CheckResult
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome
from tests.support.proxy.check_harness import PASSED, REFUSED, RecordingLog, make_backend

READY, DRAIN, MAINT = AdminState.READY, AdminState.DRAIN, AdminState.MAINT
DOWN = 'is DOWN, reason: Layer4 connection problem, info: "Connection refused", check duration: 7ms.'
UP = "is UP, reason: Layer4 check passed, check duration: 7ms."
NO_SERVER = "backend b has no server available!"


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock."""
    monkeypatch.setattr(trio, "current_time", lambda: 0.0)


class StateLog:
    """A backend with servers s1, s2 and so on whose states change, and the messages about it."""

    def __init__(self, servers: int = 2, *, backups: int = 0, rise: int = 1, fall: int = 1) -> None:
        self.log = RecordingLog()
        names = [f"s{number}" for number in range(1, servers + backups + 1)]
        self.backend: Backend = make_backend(
            *(
                {"name": name, "address": "127.0.0.1:143", "backup": number >= servers}
                for number, name in enumerate(names)
            ),
            log=self.log,
            check={"type": "tcp", "rise": rise, "fall": fall},
        )
        for server in self.backend.servers:  # all servers have passed a check
            self.record_pass(server.name)
        assert self.new_messages == []

    def __getitem__(self, name: str) -> BackendServer:
        return next(server for server in self.backend.servers if server.name == name)

    def record_pass(self, name: str) -> None:
        self.backend.record_check(self[name], CheckOutcome(PASSED, 7))

    def record_failure(self, name: str) -> None:
        self.backend.record_check(self[name], CheckOutcome(REFUSED, 7))

    def set_state(self, name: str, state: AdminState) -> None:
        self.backend.set_state(self[name], state)

    @property
    def new_messages(self) -> list[str]:
        """The messages since the last call."""
        entries, self.log.events = self.log.events, []
        return [entry.message for entry in entries]


# Down and up


def test_server_goes_down_and_up() -> None:
    states = StateLog()
    states.record_failure("s1")
    assert states.new_messages == [
        f"Server b/s1 {DOWN} 1 active and 0 backup servers left. 0 sessions active, 0 requeued, 0 remaining in queue."
    ]
    states.record_pass("s1")
    assert states.new_messages == [
        f"Server b/s1 {UP} 2 active and 0 backup servers online. 0 sessions requeued, 0 total in queue."
    ]


def test_last_server_goes_down() -> None:
    states = StateLog()
    states.record_failure("s1")
    states.record_failure("s2")
    assert states.new_messages[1:] == [
        f"Server b/s2 {DOWN} 0 active and 0 backup servers left. 0 sessions active, 0 requeued, 0 remaining in queue.",
        NO_SERVER,
    ]
    states.record_pass("s2")
    assert states.new_messages == [
        f"Server b/s2 {UP} 1 active and 0 backup servers online. 0 sessions requeued, 0 total in queue."
    ]


def test_backup_takes_over() -> None:
    states = StateLog(1, backups=2)
    states.record_failure("s1")
    assert states.new_messages == [
        (
            f"Server b/s1 {DOWN} 0 active and 2 backup servers left. Running on backup. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        )
    ]
    states.record_failure("s2")
    assert states.new_messages == [
        (
            f"Backup Server b/s2 {DOWN} 0 active and 1 backup servers left. Running on backup. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        )
    ]
    states.record_failure("s3")
    assert states.new_messages == [
        (
            f"Backup Server b/s3 {DOWN} 0 active and 0 backup servers left. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        ),
        NO_SERVER,
    ]
    states.record_pass("s3")
    assert states.new_messages == [
        (
            f"Backup Server b/s3 {UP} 0 active and 1 backup servers online. Running on backup. "
            "0 sessions requeued, 0 total in queue."
        )
    ]
    states.record_pass("s1")
    assert states.new_messages == [
        f"Server b/s1 {UP} 1 active and 1 backup servers online. 0 sessions requeued, 0 total in queue."
    ]


def test_checks_between_up_and_down() -> None:
    states = StateLog(rise=2, fall=3)
    failed = 'failed, reason: Layer4 connection problem, info: "Connection refused", check duration: 7ms'
    succeeded = "succeeded, reason: Layer4 check passed, check duration: 7ms"
    states.record_failure("s1")
    states.record_failure("s1")
    states.record_pass("s1")
    states.record_pass("s1")
    assert states.new_messages == [
        f"Health check for server b/s1 {failed}, status: 2/3 UP.",
        f"Health check for server b/s1 {failed}, status: 1/3 UP.",
        f"Health check for server b/s1 {succeeded}, status: 3/3 UP.",
    ]
    for _ in range(5):
        states.record_failure("s1")
    assert len(states.new_messages) == 3, "two checks and the server's going down"
    states.record_pass("s1")
    states.record_failure("s1")
    assert states.new_messages == [
        f"Health check for server b/s1 {succeeded}, status: 1/2 DOWN.",
        f"Health check for server b/s1 {failed}, status: 0/2 DOWN.",
    ]


def test_backup_is_lower_case_within_sentence() -> None:
    states = StateLog(1, backups=1, fall=2)
    states.record_failure("s2")
    assert states.new_messages == [
        (
            'Health check for backup server b/s2 failed, reason: Layer4 connection problem, info: "Connection refused", '
            "check duration: 7ms, status: 1/2 UP."
        )
    ]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (CheckResult(CheckCode.L4TOUT), "reason: Layer4 timeout, check duration: 3ms."),
        (
            CheckResult(CheckCode.L7STS, "554 5.7.1 no", 554),
            'reason: Layer7 wrong status, code: 554, info: "554 5.7.1 no", check duration: 3ms.',
        ),
        (
            CheckResult(CheckCode.L6RSP, "wrong version number"),
            'reason: Layer6 invalid response, info: "wrong version number", check duration: 3ms.',
        ),
    ],
)
def test_reason_is_result_of_check(result: CheckResult, words: str) -> None:
    states = StateLog()
    states.backend.record_check(states["s1"], CheckOutcome(result, 3))
    assert states.new_messages[0].startswith(f"Server b/s1 is DOWN, {words} 1 active")


def test_active_and_queued_sessions_are_counted() -> None:
    states = StateLog(1)
    assert [states.backend.acquire(None) for _ in range(3)] == [states["s1"]] * 3
    waiters: list[Waiter[BackendServer]] = [
        Waiter(lambda: None, required) for required in (None, states["s1"], states["s1"])
    ]
    for waiter in waiters:
        assert states.backend.pool.enqueue(waiter)
    states.record_failure("s1")
    assert states.new_messages[0] == (
        f"Server b/s1 {DOWN} 0 active and 0 backup servers left. "
        "3 sessions active, 2 requeued, 3 remaining in queue."
    )
    states.record_pass("s1")
    assert states.new_messages == [
        f"Server b/s1 {UP} 1 active and 0 backup servers online. 3 sessions requeued, 0 total in queue."
    ]


# Maintenance


def test_maintenance_begins_and_ends() -> None:
    states = StateLog()
    states.set_state("s1", MAINT)
    assert states.new_messages == [
        (
            "Server b/s1 is going DOWN for maintenance. 1 active and 0 backup servers left. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        )
    ]
    states.set_state("s1", READY)
    assert states.new_messages == ["Server b/s1 is UP/READY (leaving forced maintenance)."]


def test_last_server_enters_maintenance() -> None:
    states = StateLog(1)
    states.set_state("s1", MAINT)
    assert states.new_messages[1:] == [NO_SERVER]


def test_backup_enters_and_leaves_maintenance() -> None:
    states = StateLog(1, backups=1)
    states.set_state("s2", MAINT)
    assert states.new_messages[0].startswith(
        "Backup Server b/s2 is going DOWN for maintenance. 1 active and 0 backup "
    )
    states.set_state("s2", READY)
    assert states.new_messages == ["Backup Server b/s2 is UP/READY (leaving forced maintenance)."]


def test_down_server_enters_maintenance() -> None:
    states = StateLog()
    states.record_failure("s1")
    assert states.new_messages
    states.set_state("s1", MAINT)
    assert states.new_messages == ["Server b/s1 was DOWN and now enters maintenance."]
    states.set_state("s1", READY)
    assert states.new_messages == ["Server b/s1 is UP/READY (leaving forced maintenance)."]


def test_maintenance_of_only_server_uses_backup() -> None:
    states = StateLog(1, backups=1)
    states.set_state("s1", MAINT)
    assert states.new_messages == [
        (
            "Server b/s1 is going DOWN for maintenance. 0 active and 1 backup servers left. Running on backup. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        )
    ]


# Drain


def test_drain_begins_and_ends() -> None:
    states = StateLog()
    states.set_state("s1", DRAIN)
    assert states.new_messages == [
        "Server b/s1 enters drain state. 1 active and 0 backup servers online. 0 sessions requeued, 0 total in queue."
    ]
    states.set_state("s1", READY)
    assert states.new_messages == ["Server b/s1 is UP (leaving forced drain)."]


def test_drained_server_goes_down_and_up() -> None:
    states = StateLog()
    states.set_state("s1", DRAIN)
    assert states.new_messages
    states.record_failure("s1")
    assert states.new_messages == [
        f"Server b/s1 {DOWN} 1 active and 0 backup servers left. 0 sessions active, 0 requeued, 0 remaining in queue.",
        "Server b/s1 remains in forced drain mode.",
    ]
    states.record_pass("s1")
    assert states.new_messages == [
        f"Server b/s1 {UP} 1 active and 0 backup servers online. 0 sessions requeued, 0 total in queue.",
        "Server b/s1 remains in forced drain mode.",
    ]


def test_down_server_leaves_drain() -> None:
    states = StateLog()
    states.set_state("s1", DRAIN)
    states.record_failure("s1")
    assert states.new_messages
    states.set_state("s1", READY)
    assert states.new_messages == ["Server b/s1 is DOWN (leaving forced drain)."]


def test_down_server_enters_drain() -> None:
    states = StateLog()
    states.record_failure("s1")
    assert states.new_messages
    states.set_state("s1", DRAIN)
    assert states.new_messages == [
        (
            "Server b/s1 enters drain state. 1 active and 0 backup servers left. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        )
    ]


def test_maintenance_returns_to_drain() -> None:
    states = StateLog()
    states.set_state("s1", DRAIN)
    assert states.new_messages
    states.set_state("s1", MAINT)
    assert states.new_messages == [
        (
            "Server b/s1 is going DOWN for maintenance. 1 active and 0 backup servers left. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        )
    ]
    states.set_state("s1", DRAIN)
    assert states.new_messages == [
        "Server b/s1 is UP/DRAIN (leaving forced maintenance).",
        "Server b/s1 remains in forced drain mode.",
    ]


# No server left


def test_backend_down_is_not_repeated_for_maintenance() -> None:
    states = StateLog(1)
    states.record_failure("s1")
    assert states.new_messages[-1] == NO_SERVER
    states.set_state("s1", MAINT)
    assert states.new_messages == ["Server b/s1 was DOWN and now enters maintenance."]


def test_backend_down_is_not_repeated_for_drain() -> None:
    states = StateLog(1)
    states.set_state("s1", MAINT)
    assert states.new_messages[-1] == NO_SERVER
    states.set_state("s1", DRAIN)
    assert states.new_messages == [
        "Server b/s1 is UP/DRAIN (leaving forced maintenance).",
        "Server b/s1 remains in forced drain mode.",
    ]


def test_backend_down_is_not_repeated_after_drain() -> None:
    """A drained server goes down, and then leaves drain."""
    states = StateLog(1)
    states.set_state("s1", DRAIN)
    assert states.new_messages[-1] == NO_SERVER
    states.record_failure("s1")
    assert states.new_messages[1:] == ["Server b/s1 remains in forced drain mode."]
    states.set_state("s1", READY)
    assert states.new_messages == ["Server b/s1 is DOWN (leaving forced drain)."]


def test_backend_down_is_logged_after_each_recovery() -> None:
    states = StateLog(2, backups=1)
    for name in ("s1", "s2", "s3"):
        states.record_failure(name)
    states.set_state("s2", MAINT)
    assert states.new_messages.count(NO_SERVER) == 1
    states.record_pass("s3")
    states.record_failure("s3")
    assert states.new_messages[-1] == NO_SERVER


def test_unchanged_state_is_not_logged() -> None:
    states = StateLog()
    for state in (READY, DRAIN, MAINT):
        states.set_state("s1", state)
        assert (states.new_messages == []) is (state is READY)
        states.set_state("s1", state)
        assert states.new_messages == []


def test_each_message_has_event_name() -> None:
    states = StateLog(rise=2, fall=2)
    for step in (states.record_failure, states.record_failure, states.record_pass, states.record_pass):
        step("s1")
    states.set_state("s1", MAINT)
    states.set_state("s2", MAINT)
    names = [entry.event for entry in states.log.events]
    assert names == [
        "server-check",
        "server-down",
        "server-check",
        "server-up",
        "server-state",
        "server-state",
        "backend-down",
    ]
