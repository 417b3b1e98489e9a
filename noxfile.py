"""The same checks as scripts/test, each by name: nox -s lint types tests peers bench."""

import nox

nox.options.sessions = ["lint", "types", "tests"]


@nox.session
def lint(session: nox.Session) -> None:
    session.install("-e", ".[lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("flake8", "mailproxy", "tests")  # ruff lets some of flake8-async's rules pass
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    session.install("-e", ".[tests]")
    session.run("pytest", "--numprocesses=auto", "--dist=worksteal", *session.posargs)


@nox.session
def peers(session: nox.Session) -> None:
    """Needs the programs installed; scripts/test --peers installs them."""
    session.install("-e", ".[tests]")
    session.run("pytest", "--peers", "tests/interop", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    session.run("scripts/bench", *session.posargs, external=True)
