"""What is told of a change of a server, word by word: monitoring looks for HAProxy's sentences."""

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
NOBODY = "backend b has no server available!"


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is always the same moment."""
    monkeypatch.setattr(trio, "current_time", lambda: 0.0)


class Story:
    """A backend whose servers s1, s2 and so on are brought up and down, and what is told of it."""

    def __init__(self, servers: int = 2, *, backups: int = 0, rise: int = 1, fall: int = 1) -> None:
        self.diary = RecordingLog()
        names = [f"s{number}" for number in range(1, servers + backups + 1)]
        self.backend: Backend = make_backend(
            *(
                {"name": name, "address": "127.0.0.1:143", "backup": number >= servers}
                for number, name in enumerate(names)
            ),
            diary=self.diary,
            check={"type": "tcp", "rise": rise, "fall": fall},
        )
        for server in self.backend.servers:  # all have been seen well
            self.passes(server.name)
        assert self.news == []

    def __getitem__(self, name: str) -> BackendServer:
        return next(server for server in self.backend.servers if server.name == name)

    def passes(self, name: str) -> None:
        self.backend.record_check(self[name], CheckOutcome(PASSED, 7))

    def fails(self, name: str) -> None:
        self.backend.record_check(self[name], CheckOutcome(REFUSED, 7))

    def becomes(self, name: str, state: AdminState) -> None:
        self.backend.set_state(self[name], state)

    @property
    def news(self) -> list[str]:
        """What was told since this was last asked."""
        entries, self.diary.events = self.diary.events, []
        return [entry.message for entry in entries]


# Down and up


def test_down_and_up() -> None:
    story = Story()
    story.fails("s1")
    assert story.news == [
        f"Server b/s1 {DOWN} 1 active and 0 backup servers left. 0 sessions active, 0 requeued, 0 remaining in queue."
    ]
    story.passes("s1")
    assert story.news == [
        f"Server b/s1 {UP} 2 active and 0 backup servers online. 0 sessions requeued, 0 total in queue."
    ]


def test_the_last_one_down() -> None:
    story = Story()
    story.fails("s1")
    story.fails("s2")
    assert story.news[1:] == [
        f"Server b/s2 {DOWN} 0 active and 0 backup servers left. 0 sessions active, 0 requeued, 0 remaining in queue.",
        NOBODY,
    ]
    story.passes("s2")
    assert story.news == [
        f"Server b/s2 {UP} 1 active and 0 backup servers online. 0 sessions requeued, 0 total in queue."
    ]


def test_running_on_backup() -> None:
    story = Story(1, backups=2)
    story.fails("s1")
    assert story.news == [
        (
            f"Server b/s1 {DOWN} 0 active and 2 backup servers left. Running on backup. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        )
    ]
    story.fails("s2")
    assert story.news == [
        (
            f"Backup Server b/s2 {DOWN} 0 active and 1 backup servers left. Running on backup. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        )
    ]
    story.fails("s3")
    assert story.news == [
        (
            f"Backup Server b/s3 {DOWN} 0 active and 0 backup servers left. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        ),
        NOBODY,
    ]
    story.passes("s3")
    assert story.news == [
        (
            f"Backup Server b/s3 {UP} 0 active and 1 backup servers online. Running on backup. "
            "0 sessions requeued, 0 total in queue."
        )
    ]
    story.passes("s1")
    assert story.news == [
        f"Server b/s1 {UP} 1 active and 1 backup servers online. 0 sessions requeued, 0 total in queue."
    ]


def test_on_the_way_down_and_up() -> None:
    story = Story(rise=2, fall=3)
    failed = 'failed, reason: Layer4 connection problem, info: "Connection refused", check duration: 7ms'
    succeeded = "succeeded, reason: Layer4 check passed, check duration: 7ms"
    story.fails("s1")
    story.fails("s1")
    story.passes("s1")
    story.passes("s1")
    assert story.news == [
        f"Health check for server b/s1 {failed}, status: 2/3 UP.",
        f"Health check for server b/s1 {failed}, status: 1/3 UP.",
        f"Health check for server b/s1 {succeeded}, status: 3/3 UP.",
    ]
    for _ in range(5):
        story.fails("s1")
    assert len(story.news) == 3, "two steps, and that it is down; then nothing is new"
    story.passes("s1")
    story.fails("s1")
    assert story.news == [
        f"Health check for server b/s1 {succeeded}, status: 1/2 DOWN.",
        f"Health check for server b/s1 {failed}, status: 0/2 DOWN.",
    ]


def test_a_backup_on_the_way_down_is_lower_case_within_the_sentence() -> None:
    story = Story(1, backups=1, fall=2)
    story.fails("s2")
    assert story.news == [
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
def test_the_reason_is_that_of_the_check(result: CheckResult, words: str) -> None:
    story = Story()
    story.backend.record_check(story["s1"], CheckOutcome(result, 3))
    assert story.news[0].startswith(f"Server b/s1 is DOWN, {words} 1 active")


def test_sessions_and_those_who_wait_are_counted() -> None:
    story = Story(1)
    assert [story.backend.acquire(None) for _ in range(3)] == [story["s1"]] * 3
    waiters: list[Waiter[BackendServer]] = [
        Waiter(lambda: None, wanted) for wanted in (None, story["s1"], story["s1"])
    ]
    for waiter in waiters:
        assert story.backend.pool.enqueue(waiter)
    story.fails("s1")
    assert story.news[0] == (
        f"Server b/s1 {DOWN} 0 active and 0 backup servers left. "
        "3 sessions active, 2 requeued, 3 remaining in queue."
    )
    story.passes("s1")
    assert story.news == [
        f"Server b/s1 {UP} 1 active and 0 backup servers online. 3 sessions requeued, 0 total in queue."
    ]


# Maintenance


def test_into_maintenance_and_out() -> None:
    story = Story()
    story.becomes("s1", MAINT)
    assert story.news == [
        (
            "Server b/s1 is going DOWN for maintenance. 1 active and 0 backup servers left. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        )
    ]
    story.becomes("s1", READY)
    assert story.news == ["Server b/s1 is UP/READY (leaving forced maintenance)."]


def test_the_last_one_into_maintenance() -> None:
    story = Story(1)
    story.becomes("s1", MAINT)
    assert story.news[1:] == [NOBODY]


def test_a_backup_into_maintenance_and_out() -> None:
    story = Story(1, backups=1)
    story.becomes("s2", MAINT)
    assert story.news[0].startswith(
        "Backup Server b/s2 is going DOWN for maintenance. 1 active and 0 backup "
    )
    story.becomes("s2", READY)
    assert story.news == ["Backup Server b/s2 is UP/READY (leaving forced maintenance)."]


def test_a_server_that_is_down_into_maintenance() -> None:
    story = Story()
    story.fails("s1")
    assert story.news
    story.becomes("s1", MAINT)
    assert story.news == ["Server b/s1 was DOWN and now enters maintenance."]
    story.becomes("s1", READY)
    assert story.news == ["Server b/s1 is UP/READY (leaving forced maintenance)."]


def test_maintenance_keeps_the_backup_running() -> None:
    story = Story(1, backups=1)
    story.becomes("s1", MAINT)
    assert story.news == [
        (
            "Server b/s1 is going DOWN for maintenance. 0 active and 1 backup servers left. Running on backup. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        )
    ]


# Drain


def test_into_drain_and_out() -> None:
    story = Story()
    story.becomes("s1", DRAIN)
    assert story.news == [
        "Server b/s1 enters drain state. 1 active and 0 backup servers online. 0 sessions requeued, 0 total in queue."
    ]
    story.becomes("s1", READY)
    assert story.news == ["Server b/s1 is UP (leaving forced drain)."]


def test_down_and_up_in_drain() -> None:
    story = Story()
    story.becomes("s1", DRAIN)
    assert story.news
    story.fails("s1")
    assert story.news == [
        f"Server b/s1 {DOWN} 1 active and 0 backup servers left. 0 sessions active, 0 requeued, 0 remaining in queue.",
        "Server b/s1 remains in forced drain mode.",
    ]
    story.passes("s1")
    assert story.news == [
        f"Server b/s1 {UP} 1 active and 0 backup servers online. 0 sessions requeued, 0 total in queue.",
        "Server b/s1 remains in forced drain mode.",
    ]


def test_down_in_drain_and_out_of_that() -> None:
    story = Story()
    story.becomes("s1", DRAIN)
    story.fails("s1")
    assert story.news
    story.becomes("s1", READY)
    assert story.news == ["Server b/s1 is DOWN (leaving forced drain)."]


def test_a_server_that_is_down_into_drain() -> None:
    story = Story()
    story.fails("s1")
    assert story.news
    story.becomes("s1", DRAIN)
    assert story.news == [
        (
            "Server b/s1 enters drain state. 1 active and 0 backup servers left. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        )
    ]


def test_from_drain_into_maintenance_and_back_into_drain() -> None:
    story = Story()
    story.becomes("s1", DRAIN)
    assert story.news
    story.becomes("s1", MAINT)
    assert story.news == [
        (
            "Server b/s1 is going DOWN for maintenance. 1 active and 0 backup servers left. "
            "0 sessions active, 0 requeued, 0 remaining in queue."
        )
    ]
    story.becomes("s1", DRAIN)
    assert story.news == [
        "Server b/s1 is UP/DRAIN (leaving forced maintenance).",
        "Server b/s1 remains in forced drain mode.",
    ]


# Nobody left


def test_a_backend_without_servers_is_not_told_again_when_one_that_is_down_enters_maintenance() -> None:
    story = Story(1)
    story.fails("s1")
    assert story.news[-1] == NOBODY
    story.becomes("s1", MAINT)
    assert story.news == ["Server b/s1 was DOWN and now enters maintenance."]


def test_a_backend_without_servers_is_not_told_again_when_maintenance_becomes_drain() -> None:
    story = Story(1)
    story.becomes("s1", MAINT)
    assert story.news[-1] == NOBODY
    story.becomes("s1", DRAIN)
    assert story.news == [
        "Server b/s1 is UP/DRAIN (leaving forced maintenance).",
        "Server b/s1 remains in forced drain mode.",
    ]


def test_a_backend_without_servers_is_not_told_again_when_a_drained_one_goes_down_or_is_let_go() -> None:
    story = Story(1)
    story.becomes("s1", DRAIN)
    assert story.news[-1] == NOBODY
    story.fails("s1")
    assert story.news[1:] == ["Server b/s1 remains in forced drain mode."]
    story.becomes("s1", READY)
    assert story.news == ["Server b/s1 is DOWN (leaving forced drain)."]


def test_a_backend_without_servers_is_told_again_after_there_was_one() -> None:
    story = Story(2, backups=1)
    for name in ("s1", "s2", "s3"):
        story.fails(name)
    story.becomes("s2", MAINT)
    assert story.news.count(NOBODY) == 1
    story.passes("s3")
    story.fails("s3")
    assert story.news[-1] == NOBODY


def test_what_is_so_already_is_not_told() -> None:
    story = Story()
    for state in (READY, DRAIN, MAINT):
        story.becomes("s1", state)
        assert (story.news == []) is (state is READY)
        story.becomes("s1", state)
        assert story.news == []


def test_each_sentence_is_told_under_its_name() -> None:
    story = Story(rise=2, fall=2)
    for step in (story.fails, story.fails, story.passes, story.passes):
        step("s1")
    story.becomes("s1", MAINT)
    story.becomes("s2", MAINT)
    names = [entry.event for entry in story.diary.events]
    assert names == [
        "server-check",
        "server-down",
        "server-check",
        "server-up",
        "server-state",
        "server-state",
        "backend-down",
    ]
