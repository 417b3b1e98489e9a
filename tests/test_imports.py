"""What loads what: pure packages without loop and sockets, a light program, and layers that point downwards."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mailproxy

ROOT = Path(__file__).parents[1]
PURE = (
    "mailproxy.config",
    "mailproxy.pool",
    "mailproxy.address",
    "mailproxy.errors",
    "mailproxy.protocol",
    "mailproxy.protocol.client_hello",
    "mailproxy.protocol.proxy_header",
)

WITHOUT = """
import sys

# not _socket: the types module of CPython 3.13 looks into it
blocked = {"trio", "ssl", "_ssl", "socket", "select", "selectors", "asyncio", "logging"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")

for name in [name for name in sys.modules if name.partition(".")[0] in blocked]:
    del sys.modules[name]
sys.meta_path.insert(0, Blocker())
"""


def run(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *options, "-c", program], capture_output=True, text=True, cwd=ROOT)


def loaded_by(*command: str) -> set[str]:
    """The top packages that a Python command loads."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    return {
        name.partition(".")[0]
        for name in re.findall(r"^import time: .*\| +([\w.]+)$", result.stderr, re.MULTILINE)
    }


@pytest.mark.parametrize("package", PURE)
def test_pure_packages_need_no_loop_no_sockets_and_no_tls(package: str) -> None:
    result = run(f"{WITHOUT}\nimport {package}\nprint('imported')")
    assert (result.stdout, result.stderr) == ("imported\n", "")


def test_the_blockade_holds() -> None:
    for module in ("trio", "socket", "ssl", "select", "logging"):
        assert f"ImportError: {module} is blocked" in run(f"{WITHOUT}\nimport {module}").stderr


def test_a_configuration_is_read_and_a_server_chosen_where_there_is_no_trio() -> None:
    result = run(
        f"{WITHOUT}\n"
        "import mailproxy\n"
        "from mailproxy.pool import LeastConn, Server\n"
        "config = mailproxy.load('config/dovecot-passthrough.toml')\n"
        "servers = [Server(s.name, addresses=(s.address,)) for s in config.backends['dovecot'].servers]\n"
        "balance = LeastConn()\n"
        "balance.set_servers(servers)\n"
        "print(balance.choose().name)\n"
    )
    assert (result.stdout, result.stderr) == ("d1\n", "")


def test_mailproxy_alone_loads_next_to_nothing() -> None:
    loaded = loaded_by("-c", "import mailproxy")
    assert "mailproxy" in loaded
    assert not loaded & {"trio", "cattrs", "attr", "attrs", "cryptography", "tomli", "click", "ssl", "socket"}


def test_reading_a_configuration_loads_no_trio_and_no_cryptography() -> None:
    loaded = loaded_by("-c", "import mailproxy; mailproxy.load('config/exchange-imaps-offload.toml')")
    assert {"cattrs", "tomli"} <= loaded
    assert not loaded & {"trio", "cryptography", "ssl", "click"}


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["schema"]], ids=" ".join)
def test_a_program_that_serves_nobody_loads_no_trio(words: list[str]) -> None:
    loaded = loaded_by("-m", "mailproxy", *words)
    assert "click" in loaded
    assert not loaded & {"trio", "cryptography", "ssl"}


def test_a_proxy_that_forwards_loads_no_cryptography() -> None:
    assert "cryptography" not in loaded_by("-m", "mailproxy", "check", "config/exchange-both-forward.toml")


def test_a_proxy_loads_nothing_that_is_for_tests_only() -> None:
    loaded = loaded_by("-c", "import mailproxy; mailproxy.serve")
    assert "trio" in loaded
    assert not loaded & {"trustme", "pytest", "hypothesis", "click", "cryptography"}


def test_every_name_of_the_public_face_is_there() -> None:
    assert mailproxy.__all__ == sorted(mailproxy.__all__)
    for name in mailproxy.__all__:
        assert getattr(mailproxy, name).__module__.startswith("mailproxy.")
    with pytest.raises(AttributeError, match="module 'mailproxy' has no attribute 'nonsense'"):
        mailproxy.nonsense  # noqa: B018 - what is to be tried


def test_a_reader_in_the_interpreter_finds_the_names() -> None:
    """``dir`` and completion before any name is loaded, and ``help``."""
    result = run(
        "import mailproxy, pydoc\nprint(dir(mailproxy))\nprint(pydoc.plain(pydoc.render_doc(mailproxy)))\n"
    )
    names, _, words = result.stdout.partition("\n")
    assert names == repr(sorted([*mailproxy.__all__, "__version__"]))
    for each in (
        "async serve(",
        "load(",
        "from_mapping(",
        "class Config(",
        "class Proxy(",
        "class ConfigError(",
    ):
        assert each in words


def test_it_says_that_it_has_types() -> None:
    assert (ROOT / "mailproxy" / "py.typed").is_file()


def test_imports_point_downwards_only() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint_imports, "--no-cache"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", result.stdout)
