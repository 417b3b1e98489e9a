"""Every check of the project, by name.

``scripts/test`` runs the sessions lint, types, docs, tests and, with ``--peers``, peers and instructions in the project's own
environment.
``nox`` alone gives each session an environment of its own, and runs the tests under each Python that is supported.
Arguments after ``--`` replace those of pytest: ``nox -s tests-3.12 -- tests/pool -x``.
"""

from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "docs", "tests"]
# Each test has its own ports and folders.
SIDE_BY_SIDE = ["--numprocesses=auto", "--dist=worksteal", "--ignore=tests/interop"]


def install(session: nox.Session, extra: str) -> None:
    if session.virtualenv.venv_backend != "none":  # else scripts/test has made the environment
        session.install("-e", f".[{extra}]")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, import contracts and prose."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    # Ruff lacks some of flake8-async's rules, which take 0.4 s a file. Without a coroutine there is nothing to find.
    files = [path for folder in ("mailproxy", "tests") for path in Path(folder).rglob("*.py")]
    session.run("flake8", *(str(path) for path in sorted(files) if "async" in path.read_text()))
    session.run("lint-imports", "--no-cache")
    session.run("codespell")
    session.run("python", "scripts/lint-prose")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy over code, tests, scripts and examples."""
    install(session, "dev")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site, in the folder site. Every link and anchor must have a target."""
    install(session, "docs")
    session.run("mkdocs", "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The tests that need no other program and are not slow."""
    install(session, "tests")
    session.run("pytest", *(session.posargs or [*SIDE_BY_SIDE, "-m", "not slow"]))


@nox.session
@nox.parametrize("trio", [f"0.{minor}.0" for minor in range(26, 36)])
def trios(session: nox.Session, trio: str) -> None:
    """The poller, which knows trio's inside, and the relay with each trio that is supported."""
    install(session, "tests")
    session.install(f"trio=={trio}")
    session.run(
        "pytest",
        "tests/net/test_io_wait.py",
        "tests/net/test_poller.py",
        "tests/proxy/relay",
        *SIDE_BY_SIDE[:2],
    )


@nox.session
def peers(session: nox.Session) -> None:
    """Slow tests, and tests against real Dovecot, Postfix, HAProxy and clients, which scripts/test --peers installs."""
    install(session, "tests")
    if session.posargs:
        session.run("pytest", "--peers", *session.posargs)
        return
    # To collect the files without slow tests takes 1.5 s in each process.
    quick = [path for path in Path("tests").rglob("test_*.py") if "mark.slow" not in path.read_text()]
    session.run("pytest", *SIDE_BY_SIDE, "-m", "slow", *(f"--ignore={path}" for path in quick))
    # The tests of a file share programs, which are started once.
    session.run("pytest", "--peers", "--numprocesses=4", "--dist=loadfile", "tests/interop")


@nox.session
def coverage(session: nox.Session) -> None:
    """All tests but tests/interop once more, measured. Each package must reach its floor."""
    install(session, "coverage")
    session.run("coverage", "erase")
    arguments = session.posargs or ["-q", *SIDE_BY_SIDE]
    # A test that fails does not count here: processes start slower while they are measured. The session tests judges.
    session.run("coverage", "run", "-m", "pytest", *arguments, success_codes=[0, 1])
    session.run("coverage", "combine", "--quiet")
    session.run("python", "scripts/coverage-floors")


@nox.session(venv_backend="none")
def instructions(session: nox.Session) -> None:
    """Instructions per session and round trip, beside the stored ones. No count makes it fail."""
    session.run("scripts/bench", "--instructions", *(session.posargs or ["--rounds", "2"]), external=True)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Cost beside HAProxy."""
    session.run("scripts/bench", *session.posargs, external=True)
