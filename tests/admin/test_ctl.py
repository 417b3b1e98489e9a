"""``mailproxy ctl``: which socket, what is printed, which exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from mailproxy.cli import main
from mailproxy.cli.ctl import AdminAddress, make_completer, parse_socket
from tests.admin.conftest import Administered, open_administered
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness


async def ctl(*words: str, text: str = "") -> Result:
    return await trio.to_thread.run_sync(lambda: CliRunner().invoke(main, ["ctl", *words], input=text))


async def test_answer_is_printed_without_the_empty_line(administered: Administered) -> None:
    result = await ctl("-s", str(administered.path), "show", "backend")
    assert (result.exit_code, result.stdout) == (0, "# name\nb\n")


async def test_negative_numbers_are_no_options(administered: Administered) -> None:
    result = await ctl("-s", str(administered.path), "show", "stat", "-1", "4", "1")
    assert [line.split(",")[1] for line in result.stdout.splitlines()] == ["svname", "s1"]


@pytest.mark.parametrize(
    "command", ["set server b/x state ready", "show nothing", "show version; get weight x"]
)
async def test_error_is_printed_to_stderr_with_exit_code_1(administered: Administered, command: str) -> None:
    result = await ctl("-s", str(administered.path), command)
    assert result.exit_code == 1
    assert "[3]" not in result.stderr
    assert result.stderr != ""


async def test_socket_is_taken_from_the_configuration(harness: ProxyHarness, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    await open_administered(harness, tmp_path)
    file = tmp_path / "mailproxy.toml"
    file.write_text(
        f'admin.sockets = [{{ path = "/nowhere", level = "user" }}, {{ path = "{path}" }}]\n'
        'frontends.f = { backend = "b", protocol = "tcp", bind = [{ address = "*:1143" }] }\n'
        'backends.b.servers = ["127.0.0.1:1"]\n'
    )
    assert (await ctl("-c", str(file), "show cli level")).stdout == "admin\n"


async def test_socket_is_taken_from_a_faulty_configuration(harness: ProxyHarness, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    await open_administered(harness, tmp_path)
    file = tmp_path / "mailproxy.toml"
    file.write_text(f'admin.socket = "{path}"\nfrontends.f = {{ protocl = "tcp" }}\n')
    assert (await ctl("-c", str(file), "show cli level")).stdout == "admin\n"
    file.write_text(f'admin.soket = "{path}"\nfrontends.f = {{ protocl = "tcp" }}\n')
    result = await ctl("-c", str(file), "show cli level")
    assert (result.exit_code, result.stderr.splitlines()[0][:40]) == (2, f"{file}:1:1: admin.soket: "[:40])


async def test_prompt_of_the_dialect_ends_with_the_command(administered: Administered) -> None:
    with trio.fail_after(TIMEOUT_S):
        result = await ctl("-s", str(administered.path), "prompt; show cli level")
    assert (result.exit_code, "admin" in result.stdout) == (0, True)


def test_path_that_is_too_long_is_an_error() -> None:
    result = CliRunner().invoke(main, ["ctl", "-s", f"/{'x' * 200}", "show info"])
    assert result.exit_code == 1
    assert result.stderr.endswith(": AF_UNIX path too long\n")


async def test_proxy_that_cannot_be_reached_is_an_error(tmp_path: Path) -> None:
    result = await ctl("-s", str(tmp_path / "none.sock"), "show info")
    assert result.exit_code == 1
    assert "No such file or directory: is the proxy running" in result.stderr


async def test_lines_of_standard_input_are_commands(administered: Administered) -> None:
    result = await ctl(
        "-s", str(administered.path), text="show cli level\n\nshow nothing\nquit\nshow backend\n"
    )
    assert result.exit_code == 1
    assert result.stdout == "admin\n"


def test_address_is_a_path_or_host_and_port() -> None:
    assert parse_socket("a.sock") == AdminAddress(Path("a.sock"))
    assert parse_socket("/run/a:b.sock") == AdminAddress(Path("/run/a:b.sock"))
    assert parse_socket("127.0.0.1:9999") == AdminAddress(None, ("127.0.0.1", 9999))
    assert parse_socket("[::1]:9999") == AdminAddress(None, ("::1", 9999))
    with pytest.raises(ValueError, match=r"HOST:PORT|port"):
        parse_socket("127.0.0.1:")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["set", "show"]),
        ("sh", ["show"]),
        ("show s", ["servers", "stat"]),
        ("show servers ", ["state"]),
        ("set server ", ["b", "b/s1", "b/s2"]),
        ("set server b/s1;show st", ["stat"]),
    ],
)
def test_words_of_commands_and_names_are_completed(line: str, words: list[str]) -> None:
    vocabulary = [("show", "stat"), ("show", "servers", "state"), ("set", "server"), ("b", "b/s1", "b/s2")]
    begin = max(line.rfind(" "), line.rfind(";")) + 1
    complete = make_completer(vocabulary, lambda: line, lambda: begin)
    found: list[str] = []
    while (word := complete(line[begin:], len(found))) is not None:
        found.append(word.strip())
    assert found == words
