"""The command line: what it prints where, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mailproxy.cli import main
from tests.support.imports import CONFIGS, DEFAULTS, LISTEN


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "haproxy.cfg"
    path.write_text(DEFAULTS + LISTEN)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["import", *map(str, arguments)])


def test_configuration_goes_to_stdout_and_report_to_stderr(file: Path) -> None:
    file.write_text(file.read_text() + " option contstats\n")
    result = run("haproxy", file)
    assert result.exit_code == 0
    assert result.stdout.startswith("[frontends.imap]\n")
    assert f"{file}:10:2: note: option contstats: not needed" in result.stderr


def test_strict_exits_with_1_for_losses_alone(file: Path) -> None:
    assert run("haproxy", "--strict", file).exit_code == 0
    file.write_text(file.read_text() + " option contstats\n fullconn 5\n")
    assert run("haproxy", "--strict", file).exit_code == 1
    assert run("haproxy", file).exit_code == 0


@pytest.mark.parametrize("content", ['global\n log "x', "a\0b"])
def test_unreadable_file(file: Path, content: str) -> None:
    file.write_text(content)
    result = run("haproxy", file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"{file}:")


def test_missing_file(tmp_path: Path) -> None:
    result = run("nginx", tmp_path / "nginx.conf")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "cannot be read: No such file or directory" in result.stderr


def test_output_file(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "mailproxy.toml"
    result = run("haproxy", file, "-o", target)
    assert (result.exit_code, result.stdout) == (0, "")
    assert target.read_text().startswith("[frontends.imap]\n")
    assert run("haproxy", file, "-o", tmp_path / "no" / "x").exit_code == 2


def test_report_is_a_table(file: Path) -> None:
    file.write_text(file.read_text() + " fullconn 5\n")
    lines = run("haproxy", "--report", file).stderr.splitlines()
    assert lines[0].split() == ["file", "line", "kind", "directive", "what", "was", "done"]
    assert [str(file), "10", "loss", "fullconn"] in [line.split()[:4] for line in lines]


def test_diff_has_both_columns(file: Path) -> None:
    lines = run("haproxy", "--diff", file).stdout.splitlines()
    (bind,) = [line for line in lines if line.strip().startswith("bind :143")]
    assert 'frontends.imap.bind[0].address = "*:143"' in " ".join(lines)
    assert " | " in bind


def test_mend(file: Path) -> None:
    file.write_text(file.read_text().replace("31m", "1m"))
    assert "client" in run("haproxy", file).stdout
    assert "client" not in run("haproxy", "--mend", file).stdout


def test_result_passes_the_check(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "mailproxy.toml"
    run("haproxy", file, "-o", target)
    assert CliRunner().invoke(main, ["check", "--quiet", str(target)]).exit_code == 0


@pytest.mark.parametrize(
    "name",
    ["exchange-vendor.cfg", "james.cfg", "rate-limits.cfg", "sni-map.nginx.conf", "opnsense.Caddyfile"],
)
def test_every_option_together(name: str, tmp_path: Path) -> None:
    program = "haproxy" if name.endswith(".cfg") else "nginx" if name.endswith(".conf") else "caddy"
    result = run(program, CONFIGS / name, "--report", "--diff", "--mend", "--strict", "-o", tmp_path / "x")
    assert result.exit_code in (0, 1), result.output
