"""The documentation: generated parts are current, links have targets, and every example is tested."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from mailproxy.admin.runtime.commands import COMMANDS
from mailproxy.cli import main
from mailproxy.log import END_REASONS
from mailproxy.log.events import EVENTS
from mailproxy.log.fields import SESSION_FIELDS
from mailproxy.testing import ThrowAwayCA
from tests.support import pages
from tests.support.pages import LANGUAGES, PAGES, ROOT, Block, all_blocks, anchors, blocks, links

SBIN = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
# Advice that is expected for examples, because they are short and this is not the reader's machine.
EXPECTED_ADVICE = (
    "sessions would be served as root",
    "so a renewed one needs a restart",  # the files of a test belong to its user
    "every user can read this private key",
    "receives the client's TLS facts in clear text",  # the text around the example says so
    "the servers will see and log the proxy's address",
    "descriptors",
    "workers share",
    "there is no such socket",  # syslog
    "is no address of this machine",
    "exposed at",
    "no frontend uses it",
)


def parametrize(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", all_blocks(*languages), ids=str)


# Generated parts.


@pytest.fixture(scope="module")
def generator() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "scripts" / "reference"))
    spec = importlib.util.spec_from_file_location(
        "write_reference", ROOT / "scripts" / "reference" / "write.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.pop(0)


@pytest.mark.parametrize(
    ("file", "maker"), [("docs/configuration.md", "reference"), ("config/mailproxy.schema.json", "schema"),
     ("docs/man/mailproxy.1", "command_manual"), ("docs/man/mailproxy.toml.5", "configuration_manual"),
     ("docs/completion/mailproxy.bash", "bash_completion"), ("docs/completion/_mailproxy", "zsh_completion"),
     ("docs/completion/mailproxy.fish", "fish_completion"), ("docs/end-reasons.md", "end_reasons"),
     ("docs/log-fields.md", "log_fields"), ("docs/admin-commands.md", "commands")],
)  # fmt: skip
def test_generated_files_are_current(generator: ModuleType, file: str, maker: str) -> None:
    assert (ROOT / file).read_text() == getattr(generator, maker)(), "run scripts/write-reference"


def test_generated_part_of_metrics_page_is_current(generator: ModuleType) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert generator.with_metrics(page) == page, "run scripts/write-reference"


@pytest.mark.parametrize("program", ["haproxy", "nginx", "caddy", "traefik"])
def test_tables_of_directives_are_current(generator: ModuleType, program: str) -> None:
    page = PAGES[f"docs/from-{program}.md"]
    assert generator.with_directives(program, page) == page, "run scripts/write-reference"


@pytest.mark.parametrize("page", PAGES)
def test_marks_of_figures_are_closed(page: str) -> None:
    """scripts/bench --document replaces the text after a mark, up to the closing one."""
    marks = re.findall(r"^<!-- (/?speed).*-->$", PAGES[page], re.MULTILINE)
    assert marks == ["speed", "/speed"] * (len(marks) // 2)


# Links and blocks.


@pytest.mark.parametrize("page", PAGES)
def test_links_have_targets(page: str) -> None:
    broken = []
    for target in links(page):
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        name = str(path.resolve().relative_to(ROOT))
        if not path.exists() or (anchor and anchor not in anchors(name)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/glossary.md", "CONTRIBUTING.md"])
def test_files_and_names_of_the_code_exist(page: str) -> None:
    text = PAGES[page]
    files = re.findall(r"`((?:mailproxy/)?[a-z_]+/[a-z_/]*[a-z_]+(?:\.py|/))`", text)
    names = re.findall(r"`((?:[a-z_]+\.)+[A-Z][A-Za-z]+)`", text) if page == "docs/glossary.md" else []
    missing = [file for file in files if not any((ROOT / root / file).exists() for root in ("", "mailproxy"))]
    assert missing + [name for name in names if not is_in_the_code(name)] == []


def is_in_the_code(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return hasattr(importlib.import_module(f"mailproxy.{module}"), attribute)


def test_page_of_the_admin_socket_has_every_command() -> None:
    rows = "".join(re.findall(r"^\|.*\n", PAGES["docs/admin-socket.md"], re.MULTILINE))
    documented = {
        " ".join([first, *rest])
        for code in re.findall(r"`([^`]+)`", rows)
        for firsts, *rest in [code.replace("\\|", "|").split() or [""]]
        for first in firsts.split("|")
    }
    commands = [" ".join(each.words) for each in COMMANDS]
    assert [
        each for each in commands if not any(f"{line} ".startswith(f"{each} ") for line in documented)
    ] == []


def test_every_page_is_in_the_index() -> None:
    listed = {target.partition("#")[0] for target in links("docs/index.md")}
    assert {Path(page).name for page in PAGES if page.startswith("docs/")} - {"index.md"} <= listed


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_language(page: str) -> None:
    assert [str(block) for block in blocks(page) if block.language not in LANGUAGES] == []


def test_readme_is_short() -> None:
    assert len(PAGES["README.md"].split()) <= 1_800


# Configurations.


@parametrize("toml")
def test_configuration_passes_check(block: Block, tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    text = pages.with_files(pages.complete(block.text), tmp_path, throw_away_ca)
    file = tmp_path / "etc" / "mailproxy" / "mailproxy.toml"
    file.write_text(text)
    result = CliRunner().invoke(main, ["check", "--quiet", str(file)])
    assert result.exit_code == 0, result.output
    advice = result.output.splitlines()
    assert [line for line in advice if not any(words in line for words in EXPECTED_ADVICE)] == []


def run_isolated(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program, as root in a network namespace, because its configuration test may bind ports."""
    prefix = ["unshare", "--net"] if os.geteuid() == 0 else []
    return subprocess.run([*prefix, *command], capture_output=True, text=True, timeout=60)


def program(name: str) -> str:
    path = shutil.which(name, path=SBIN)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@parametrize("haproxy")
def test_haproxy_accepts_its_configuration(block: Block, tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(pages.with_files(block.text, tmp_path, throw_away_ca))
    result = run_isolated(program("haproxy"), "-c", "-f", str(file))
    assert result.returncode == 0, result.stderr


@parametrize("nginx")
def test_nginx_accepts_its_configuration(block: Block, tmp_path: Path, throw_away_ca: ThrowAwayCA) -> None:
    nginx = program("nginx")
    if os.geteuid() != 0:
        pytest.skip("needs root: nginx binds the ports")
    for module in re.findall(r"load_module (\S+);", block.text):
        if not Path(module).exists():
            pytest.skip(f"{module} is not installed")
    file = tmp_path / "nginx.conf"
    text = pages.with_files(block.text, tmp_path, throw_away_ca)
    file.write_text(f"pid {tmp_path}/nginx.pid;\n{text}")
    result = run_isolated(nginx, "-t", "-e", "stderr", "-p", str(tmp_path), "-c", str(file))
    assert result.returncode == 0, result.stderr


@parametrize("caddyfile")
def test_caddy_accepts_its_configuration(block: Block, tmp_path: Path) -> None:
    caddy = program("caddy")
    if "layer4" not in run_isolated(caddy, "list-modules").stdout:
        pytest.skip("this caddy has no layer4")
    file = tmp_path / "Caddyfile"
    file.write_text(block.text)
    result = run_isolated(caddy, "validate", "--adapter", "caddyfile", "--config", str(file))
    assert result.returncode == 0, result.stderr


# Log lines.

STATES = {end.state for end in END_REASONS if not end.has_message}
MESSAGES = {end.state for end in END_REASONS if end.has_message}
NAMES = {end.name for end in END_REASONS}
TCPLOG_DATE = r"\[\d\d/[A-Z][a-z]{2}/\d{4}(?::\d\d){3}\.\d{3}\]"
TCPLOG = re.compile(
    rf"\S+:\d+ {TCPLOG_DATE} [\w.-]+~? [\w.-]+/(?:[\w.-]+|<NOSRV>) "
    r"-?\d+/-?\d+/\d+ \d+ (?P<state>\S\S) (?:\d+/){4}\+?\d+ \d+/\d+"
)
TCPLOG_MESSAGE = re.compile(rf"\S+:\d+ {TCPLOG_DATE} \S+/\S+: (?P<message>[^(]+?)(?: \(.+\))?")
TEXT = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d [\w.-]+ .*?(?P<end>[a-z-]+)(?: \(.+\))? after \d+\.\d{3}s, "
    r"\d+ bytes from the client, \d+ from the server"
)
# Events: HAProxy's sentences, and those of a start, which the quickstart's test compares with real ones.
SENTENCES = re.compile(
    rf"(?:{TCPLOG_DATE} )?(?:Health check for server \S+ (?:failed|succeeded), reason: .+, status: \d/\d (?:UP|DOWN)\."
    r"|Server \S+ is (?:DOWN|UP), reason: .+\.|backend \S+ has no server available!"
    r"|frontend \S+ listens on \S+, mode \w+|mailproxy is ready)"
)


def is_log_line(line: str) -> bool:
    if match := TCPLOG.fullmatch(line):
        return match["state"] in STATES
    if match := TCPLOG_MESSAGE.fullmatch(line):
        return match["message"] in MESSAGES
    if match := TEXT.fullmatch(line):
        return match["end"] in NAMES
    return bool(SENTENCES.fullmatch(line))


@parametrize("log")
def test_log_lines_have_the_log_format(block: Block) -> None:
    assert [line for line in block.text.splitlines() if not is_log_line(line)] == []


@parametrize("json")
def test_json_lines_have_the_fields_that_exist(block: Block) -> None:
    events = {event.name: event for event in EVENTS}
    for line in block.text.splitlines():
        data = json.loads(line)
        if data["event"] == "session":
            assert list(data) == [field.name for field in SESSION_FIELDS]
            assert data["end"] in NAMES
        else:
            event = events[data["event"]]
            assert data["level"] == event.level
            assert set(data) <= {"time", "event", "level", "message", *event.keys}


# Commands and programs.


@parametrize("sh")
def test_shell_accepts_its_commands(block: Block) -> None:
    result = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


@parametrize("sh")
def test_commands_have_options_and_files_that_exist(block: Block) -> None:
    commands = re.sub(r"(?m)(^|\s)#.*$", "", block.text)
    for command, rest in re.findall(r"(?<![\w./-])mailproxy (\w+)([^\n&|)>]*)", commands):
        click_command = main.commands[command]
        options = {
            name
            for parameter in click_command.params
            if isinstance(parameter, click.Option)
            for name in parameter.opts
        }
        assert set(re.findall(r"(?<=\s)--?[a-z-]+", rest)) <= options, (command, rest)
    for path in re.findall(r"(?<![\w/.$])(?:config|scripts)/[\w./-]+", commands):
        assert (ROOT / path).exists(), path
    for script, rest in re.findall(r"(scripts/[\w-]+)([^\n]*)", commands):
        source = (ROOT / script).read_text()
        assert all(option in source for option in re.findall(r"--[a-z-]+", rest)), (script, rest)


def python_blocks() -> list[Block]:
    python_examples = all_blocks("python")
    assert len(python_examples) == 2, "the next two tests expect a program and a test"
    return python_examples


def test_embedding_example_runs(tmp_path: Path) -> None:
    text = pages.complete("").replace("127.0.0.1:143", "127.0.0.1:0")
    text = text.replace('"192.0.2.11:143"', '{ name = "d1", address = "127.0.0.1:1", check = false }')
    (tmp_path / "mailproxy.toml").write_text(text)
    result = subprocess.run(
        [sys.executable, "-c", python_blocks()[0].text],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"\('127\.0\.0\.1:\d+',\)\n", result.stdout)


@pytest.mark.slow
def test_testing_example_passes(tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text(python_blocks()[1].text)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
