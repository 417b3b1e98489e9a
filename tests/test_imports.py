"""Imports: pure packages load no event loop or sockets, commands load little, and layers point downwards."""

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

BLOCKED_IMPORTS = """
import sys

# _socket is not blocked, because the types module of CPython 3.13 imports it.
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
    """Return the top-level packages that a Python command loads."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    return {
        name.partition(".")[0]
        for name in re.findall(r"^import time: .*\| +([\w.]+)$", result.stderr, re.MULTILINE)
    }


@pytest.mark.parametrize("package", PURE)
def test_pure_package_loads_without_sockets_and_tls(package: str) -> None:
    result = run(f"{BLOCKED_IMPORTS}\nimport {package}\nprint('imported')")
    assert (result.stdout, result.stderr) == ("imported\n", "")


def test_blocked_modules_cannot_be_imported() -> None:
    for module in ("trio", "socket", "ssl", "select", "logging"):
        assert f"ImportError: {module} is blocked" in run(f"{BLOCKED_IMPORTS}\nimport {module}").stderr


def test_configuration_and_balance_work_without_trio() -> None:
    result = run(
        f"{BLOCKED_IMPORTS}\n"
        "import mailproxy\n"
        "from mailproxy.pool import LeastConn, Server\n"
        "config = mailproxy.load('config/dovecot-passthrough.toml')\n"
        "servers = [Server(s.name, addresses=(s.address,)) for s in config.backends['dovecot'].servers]\n"
        "balance = LeastConn()\n"
        "balance.set_servers(servers)\n"
        "print(balance.choose().name)\n"
    )
    assert (result.stdout, result.stderr) == ("d1\n", "")


def test_import_loads_no_dependency() -> None:
    loaded = loaded_by("-c", "import mailproxy")
    assert "mailproxy" in loaded
    assert not loaded & {"trio", "cattrs", "attr", "attrs", "cryptography", "tomli", "click", "ssl", "socket"}


def test_load_imports_no_trio_and_no_cryptography() -> None:
    loaded = loaded_by("-c", "import mailproxy; mailproxy.load('config/exchange-imaps-offload.toml')")
    assert {"cattrs", "tomli"} <= loaded
    assert not loaded & {"trio", "cryptography", "ssl", "click"}


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["schema"]], ids=" ".join)
def test_informational_commands_load_no_trio(arguments: list[str]) -> None:
    loaded = loaded_by("-m", "mailproxy", *arguments)
    assert "click" in loaded
    assert not loaded & {"trio", "cryptography", "ssl"}


def test_proxy_without_tls_loads_no_cryptography() -> None:
    assert "cryptography" not in loaded_by("-m", "mailproxy", "check", "config/exchange-both-forward.toml")


ACME_PACKAGES = {"acme", "josepy", "requests", "urllib3", "dns", "OpenSSL"}


def test_proxy_without_acme_loads_nothing_of_it() -> None:
    for command in (("check", "config/exchange-both-forward.toml"), ("--help",)):
        assert not loaded_by("-m", "mailproxy", *command) & ACME_PACKAGES
    result = run(
        "import sys, mailproxy.app.run, mailproxy.workers.child, mailproxy.app.live_tlsa\n"
        "print([name for name in sys.modules if name.startswith('mailproxy.acme')])"
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_check_of_acme_loads_no_client() -> None:
    """``check`` needs no network, so it loads neither HTTP nor DNS."""
    loaded = loaded_by("-m", "mailproxy", "check", "config/caddy-imaps-chain.toml")
    assert "cryptography" in loaded
    assert not loaded & ACME_PACKAGES


def test_serve_loads_no_test_packages() -> None:
    loaded = loaded_by("-c", "import mailproxy; mailproxy.serve")
    assert "trio" in loaded
    assert not loaded & {"trustme", "pytest", "hypothesis", "click", "cryptography"}


def test_every_public_name_exists() -> None:
    assert mailproxy.__all__ == sorted(mailproxy.__all__)
    for name in mailproxy.__all__:
        assert getattr(mailproxy, name).__module__.startswith("mailproxy.")
    with pytest.raises(AttributeError, match="module 'mailproxy' has no attribute 'nonsense'"):
        mailproxy.nonsense  # noqa: B018 - the access must raise


def test_dir_and_help_list_public_names() -> None:
    """``dir`` and completion work before any name is loaded, and so does ``help``."""
    result = run(
        "import mailproxy, pydoc\nprint(dir(mailproxy))\nprint(pydoc.plain(pydoc.render_doc(mailproxy)))\n"
    )
    names, _, arguments = result.stdout.partition("\n")
    assert names == repr(sorted([*mailproxy.__all__, "__version__"]))
    for signature in (
        "async serve(",
        "load(",
        "from_mapping(",
        "class Config(",
        "class Proxy(",
        "class ConfigError(",
    ):
        assert signature in arguments


def test_package_has_a_typing_marker() -> None:
    assert (ROOT / "mailproxy" / "py.typed").is_file()


def test_import_contracts_are_kept() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint_imports, "--no-cache"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", result.stdout)
