"""How a Python was built, as far as it records it, and the advice about builds that cost more."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from mailproxy.app.python_build import PythonBuild, build_of
from mailproxy.cli import main

DEBIAN_CFLAGS = "-Wsign-compare -DNDEBUG -g -fwrapv -O2 -Wall -g -fstack-protector-strong -g -fwrapv -O2"
SCHEMES = ("posix_prefix", "posix_user", "venv")
REMEDY = "use Debian's Python, or build it with --enable-optimizations --with-lto"


def build(
    options: str, *, cflags: str = "-DNDEBUG -g -O3 -Wall", debug: int = 0, prefix: str = "/opt/python"
) -> PythonBuild:
    variables = {"CONFIG_ARGS": options, "PY_CFLAGS": cflags, "Py_DEBUG": debug}
    return build_of(variables, version="3.13.0", compiler="GCC 12.2.0", base_prefix=prefix, schemes=SCHEMES)


def test_debian_builds_with_both_optimisations() -> None:
    variables = {
        "CONFIG_ARGS": "'--enable-shared' '--prefix=/usr'",
        "PY_CFLAGS": DEBIAN_CFLAGS,
        "Py_DEBUG": 0,
    }
    debian = build_of(
        variables,
        version="3.11.2",
        compiler="GCC 12.2.0",
        base_prefix="/usr",
        schemes=("deb_system", *SCHEMES),
    )
    assert str(debian) == "Python 3.11.2 (Debian, GCC 12.2.0, PGO and LTO)"
    assert not debian.is_debug


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("'--enable-optimizations' '--with-lto'", "PGO and LTO"),
        ("'--enable-optimizations' '--with-lto=thin'", "PGO and LTO"),
        ("'--enable-optimizations'", "PGO"),
        ("'--enable-optimizations' '--with-lto=no'", "PGO"),
        ("'--with-lto=full'", "LTO"),
        ("'--enable-shared'", "neither PGO nor LTO"),
        ("", "neither PGO nor LTO"),
    ],
)
def test_options_of_configure(options: str, text: str) -> None:
    assert str(build(options)) == f"Python 3.13.0 (GCC 12.2.0, {text})"


def test_packages_of_other_distributions_do_not_record_optimisations() -> None:
    packaged = build("'--enable-shared'", prefix="/usr")
    assert (packaged.has_pgo, packaged.has_lto) == (None, None)
    assert str(packaged) == "Python 3.13.0 (GCC 12.2.0, PGO and LTO not recorded)"


@pytest.mark.parametrize(
    ("cflags", "debug", "is_debug"),
    [
        ("-g -O3 -Wall", 0, False),
        ("-O0 -Wall -O2", 0, False),
        ("-O3 -Og", 0, True),
        ("-g -O0", 0, True),
        ("-O", 0, True),
        ("-Os", 0, False),
        ("-g -O3", 1, True),
        ("", 0, False),
    ],
)
def test_debugging_builds(cflags: str, debug: int, is_debug: bool) -> None:
    debugging = build("'--enable-optimizations'", cflags=cflags, debug=debug)
    assert debugging.is_debug is is_debug
    assert str(debugging).endswith(", debugging)") is is_debug


def check(monkeypatch: pytest.MonkeyPatch, running: PythonBuild, *options: str) -> tuple[int, list[str]]:
    monkeypatch.setattr("mailproxy.app.python_build.running_build", lambda: running)
    text = (
        'process.user = "nobody"\nfrontends.a = { bind = ["127.0.0.1:0"], backend = "d", protocol = "tcp" }\n'
        'backends.d.servers = [{ name = "d1", address = "192.0.2.1:143" }]\n'
    )
    result = CliRunner().invoke(main, ["check", *options, "-"], input=text)
    return result.exit_code, result.output.splitlines()


def test_check_gives_advice_on_a_build_without_pgo(monkeypatch: pytest.MonkeyPatch) -> None:
    code, lines = check(monkeypatch, build("'--enable-shared'"), "--strict")
    assert (code, len(lines)) == (0, 2)  # the configuration itself has no advice
    assert lines[1].startswith("advice: Python 3.13.0 was built without profile-guided optimisation, ")
    assert lines[1].endswith(REMEDY)


def test_check_gives_advice_on_a_debugging_build(monkeypatch: pytest.MonkeyPatch) -> None:
    _, lines = check(monkeypatch, build("'--enable-optimizations'", debug=1))
    assert lines[1] == f"advice: Python 3.13.0 was built for debugging: {REMEDY}"


@pytest.mark.parametrize(
    "running",
    [build("'--enable-optimizations'"), build("", prefix="/usr")],
    ids=["optimised", "not-recorded"],
)
def test_check_gives_no_advice_on_other_builds(monkeypatch: pytest.MonkeyPatch, running: PythonBuild) -> None:
    _, lines = check(monkeypatch, running)
    assert len(lines) == 1


def test_quiet_check_leaves_the_build_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(monkeypatch, build(""), "--quiet") == (0, [])
    assert check(monkeypatch, build(""), "--format", "json") == (0, ["[]"])
