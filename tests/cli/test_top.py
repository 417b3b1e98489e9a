"""``mailproxy top`` without a terminal: pictures, tables, the snapshot, and the keys with a pilot."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from attrs import define, field
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from mailproxy.cli.ctl import Answer, NoAnswerError
from mailproxy.cli.top.actions import ACTIONS
from mailproxy.cli.top.app import TopApp
from mailproxy.cli.top.picture import Picture, parse_age, parse_picture, take_picture
from mailproxy.cli.top.screens import Confirm, HelpScreen, Prompt
from mailproxy.cli.top.tables import VIEWS, Choice, short_age, short_bytes, table
from mailproxy.cli.top.text import snapshot

pytestmark = pytest.mark.slow

FIELDS = "pxname,svname,qcur,scur,slim,stot,bin,bout,status,weight,act,bck,type,rate,check_status"
FIGURES = f"""\
Name: HAProxy
Version: 0.1.0
Uptime_sec: 3725
CurrConns: 3
Maxconn: 9900
ConnRate: 2

# {FIELDS}
imap,FRONTEND,,3,9900,12,100,20480,OPEN,,,,0,2,
b,s1,0,2,,8,90,20000,UP,1,1,0,2,1,L7OK
b,s2,0,1,50,4,10,480,DOWN 1/2,5,1,0,2,1,L4CON
b,BACKEND,1,3,,12,100,20480,UP,6,1,0,1,2,
"""
SESSIONS = """\
0x1a: proto=tcpv4 src=192.0.2.7:40000 fe=imap be=b srv=s1 age=1m5s idle=5s bytes_in=10 bytes_out=2000 phase=data
0x1b: proto=tcpv4 src=192.0.2.8:40001 fe=imap be=b srv=s2 age=2h3m idle=1m0s bytes_in=1 bytes_out=2 phase=data
0x1c: proto=tcpv4 src=[2001:db8::1]:4 fe=imap be=b srv=<none> age=9s idle=9s bytes_in=0 bytes_out=0 phase=queue
"""


def picture() -> Picture:
    return parse_picture(FIGURES, Answer(SESSIONS, is_error=False))


def test_picture_has_figures_and_sessions() -> None:
    parsed = picture()
    assert parsed.info["CurrConns"] == "3"
    assert [each.name for each in (*parsed.frontends, *parsed.backends, *parsed.servers)] == [
        "imap",
        "b",
        "b/s1",
        "b/s2",
    ]
    assert [(each.id, each.server, each.age) for each in parsed.sessions] == [
        ("1a", "b/s1", 65),
        ("1b", "b/s2", 7380),
        ("1c", "-", 9),
    ]


def test_refusal_takes_the_place_of_sessions() -> None:
    parsed = parse_picture(FIGURES, Answer("Permission denied\n", is_error=True))
    assert (parsed.sessions, table("sessions", parsed, Choice()).note) == ([], "Permission denied")


def test_unknown_lines_are_skipped() -> None:
    assert parse_picture("", Answer("nonsense\n0x: \n", is_error=False)) == Picture(
        frontends=[], backends=[], servers=[], sessions=[]
    )


@pytest.mark.parametrize(
    ("sort", "order"),
    [("age", ["1b", "1a", "1c"]), ("bytes", ["1a", "1b", "1c"]), ("idle", ["1b", "1c", "1a"])],
)
def test_sessions_are_sorted(sort: str, order: list[str]) -> None:
    assert [key for key, _ in table("sessions", picture(), Choice(sort)).rows] == order


@pytest.mark.parametrize(
    ("text", "found"), [("192.0.2.8", ["1b"]), ("S1", ["1a"]), ("2001", ["1c"]), ("none", [])]
)
def test_filter_looks_at_client_and_server(text: str, found: list[str]) -> None:
    assert [key for key, _ in table("sessions", picture(), Choice(text=text)).rows] == found


def test_tables_are_bounded() -> None:
    lines = "".join(SESSIONS.splitlines(keepends=True)[:1] * 700)
    view = table("sessions", parse_picture(FIGURES, Answer(lines, is_error=False)), Choice())
    assert (len(view.rows), view.hidden) == (500, 200)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (20480, "20.0k"), (200 * 1024**2, "200M"), (2**43, "8.0T")],
)
def test_bytes_are_short(number: int, text: str) -> None:
    assert short_bytes(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(5, "5s"), (65, "1m05s"), (7380, "2h03m"), (183600, "2d03h")])
def test_ages_are_short_and_are_read_back(seconds: int, text: str) -> None:
    assert short_age(seconds) == text
    assert parse_age(text) == seconds


def test_snapshot_is_plain_text_of_all_views() -> None:
    text = snapshot(picture())
    assert text.startswith("mailproxy 0.1.0  up 1h02m  sessions 3/9900  2/s\n\nserver  status")
    assert "b/s2    DOWN 1/2         1     50      0       5" in text
    assert "192.0.2.7:40000" in text
    assert "\x1b" not in text


# The program, with a proxy that only records


@define
class Recorder:
    """Answers as an admin socket, and records commands that change something."""

    commands: list[str] = field(factory=list)
    answer: Answer = field(factory=lambda: Answer("", is_error=False))
    is_gone: bool = False

    def __str__(self) -> str:
        return "/run/s"

    def ask(self, commands: str) -> Answer:
        if self.is_gone:
            raise NoAnswerError("/run/s: no answer from the proxy")
        if commands.startswith("show info"):
            return Answer(FIGURES, is_error=False)
        if commands == "show sess":
            return Answer(SESSIONS, is_error=False)
        self.commands.append(commands)
        return self.answer


def drive(script: Callable[[TopApp, Pilot[None], Recorder], Awaitable[None]]) -> None:
    """Run the program in 80 columns and 24 lines, and a script against it."""

    async def run() -> None:
        recorder = Recorder()
        app = TopApp(recorder, take_picture(recorder, with_sessions=True), interval=0.05)  # type: ignore[arg-type]
        async with app.run_test(size=(80, 24)) as pilot:
            await script(app, pilot, recorder)

    asyncio.run(run())


VIEWS_BY_KEY = {str(number): name for number, name in enumerate(VIEWS, 1)}


def rows(app: TopApp) -> list[str]:
    widget = app.query_one(DataTable)
    return [str(widget.get_row_at(index)[0]) for index in range(widget.row_count)]


async def settle(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await pilot.pause(0.01)


def test_tab_walks_through_the_views() -> None:
    async def script(app: TopApp, pilot: Pilot[None], _: Recorder) -> None:
        async def press_and_wait_for(key: str, first_row: str) -> None:
            await pilot.press(key)
            await settle(pilot, lambda: rows(app)[:1] == [first_row])  # sessions come with the next answer

        assert rows(app) == ["b/s1", "b/s2"]
        for first_row in ("b", "imap", "192.0.2.8:40001", "b/s1"):
            await press_and_wait_for("tab", first_row)
        await press_and_wait_for("shift+tab", "192.0.2.8:40001")
        await press_and_wait_for("2", "b")
        assert rows(app) == ["b"]

    drive(script)


def test_help_opens_and_escape_closes_it() -> None:
    async def script(app: TopApp, pilot: Pilot[None], _: Recorder) -> None:
        await pilot.press("question_mark")
        await settle(pilot, lambda: isinstance(app.screen, HelpScreen))
        await pilot.press("escape")
        await settle(pilot, lambda: not isinstance(app.screen, HelpScreen))
        await pilot.press("q")
        assert app.return_code == 0

    drive(script)


@pytest.mark.parametrize(
    ("view", "keys", "command"),
    [
        ("1", ["down", "d", "y"], "drain server b/s2"),
        ("1", ["d", "n"], ""),
        ("1", ["d", "escape"], ""),
        ("1", ["k", "y"], "shutdown sessions server b/s1"),
        ("1", ["w", "7", "enter"], "set server b/s1 weight 7"),
        ("1", ["w", "escape"], ""),
        ("1", ["m", "y"], "set server b/s1 state maint"),
        ("1", ["r", "y"], "set server b/s1 state ready"),
        ("1", ["c", "y"], "cancel drain server b/s1"),
        ("2", ["d"], ""),
        ("3", ["d", "y"], "drain frontend imap"),
        ("4", ["k", "y"], "shutdown session 1b"),
        ("4", ["s", "k", "y"], "shutdown session 1b"),  # the selected row is the same one in another order
    ],
)
def test_keys_send_commands_once_confirmed(view: str, keys: list[str], command: str) -> None:
    async def script(app: TopApp, pilot: Pilot[None], recorder: Recorder) -> None:
        await pilot.press(view)
        await settle(pilot, lambda: bool(rows(app)))
        for key in keys:
            await pilot.press(key)
            if key in ACTIONS[VIEWS_BY_KEY[view]]:
                await settle(pilot, lambda: isinstance(app.screen, Confirm | Prompt))
        if command:
            await settle(pilot, lambda: bool(recorder.commands))
        await settle(pilot, lambda: not isinstance(app.screen, Confirm | Prompt))
        assert recorder.commands == ([command] if command else [])

    drive(script)


def test_keys_of_the_views_rest_behind_a_dialog() -> None:
    async def script(app: TopApp, pilot: Pilot[None], recorder: Recorder) -> None:
        await pilot.press("d")
        await settle(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("tab", "2", "s", "k")
        assert isinstance(app.screen, Confirm)
        await pilot.press("y")
        await settle(pilot, lambda: bool(recorder.commands))
        assert recorder.commands == ["drain server b/s1"]
        assert rows(app) == ["b/s1", "b/s2"]

    drive(script)


def test_filter_keeps_rows_and_escape_clears_it() -> None:
    async def script(app: TopApp, pilot: Pilot[None], _: Recorder) -> None:
        await pilot.press("4", "slash")
        await settle(pilot, lambda: isinstance(app.screen, Prompt))
        app.screen.query_one(Input).value = "s1"
        await pilot.press("enter")
        await settle(pilot, lambda: rows(app) == ["192.0.2.7:40000"])
        await pilot.press("escape")
        await settle(pilot, lambda: len(rows(app)) == 3)

    drive(script)


def test_errors_and_a_lost_proxy_are_shown() -> None:
    async def script(app: TopApp, pilot: Pilot[None], recorder: Recorder) -> None:
        def message() -> str:
            return str(app.query_one("#message", Static).content)

        recorder.answer = Answer("Permission denied\n", is_error=True)
        await pilot.press("m")
        await settle(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await settle(pilot, lambda: message() == "Permission denied")
        recorder.is_gone = True
        await settle(pilot, lambda: message() == "/run/s: no answer from the proxy")
        recorder.is_gone = False
        await settle(pilot, lambda: message().startswith("? help"))

    drive(script)


def test_names_are_one_word_of_a_command() -> None:
    assert ACTIONS["servers"]["m"].command_for("b/a b;c\\d") == "set server b/a\\ b\\;c\\\\d state maint"


# The command line


def test_no_proxy_is_exit_code_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mailproxy", "top", "-s", str(tmp_path / "none")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert "is the proxy running" in result.stderr
