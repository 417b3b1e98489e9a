"""pytest fixtures: a throw-away CA, and a proxy that runs for one test.

Take them with ``pytest_plugins = ["mailproxy.testing.fixtures"]``, in the outermost ``conftest.py`` or in a module
of tests. Tests that use ``run_proxy`` are pytest-trio's: ``async def``, with ``trio_mode`` or marked ``trio``.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

_MISSING = "the fixtures need pytest and pytest-trio, which are not installed together: pip install 'mailproxy[testing]'"

try:
    import pytest
except ImportError as missing:
    raise ImportError(_MISSING, name="pytest") from missing
if find_spec("pytest_trio") is None:
    raise ImportError(_MISSING, name="pytest_trio")

import mailproxy  # noqa: E402 -- what is missing is said first
from mailproxy.testing.ca import ThrowAwayCA  # noqa: E402 -- what is missing is said first

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import trio

RunProxy: TypeAlias = "Callable[[Mapping[str, Any]], Awaitable[mailproxy.Proxy]]"


@pytest.fixture(scope="session")
def throw_away_ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowAwayCA:
    """A CA for the whole session of tests, in a folder of its own."""
    return ThrowAwayCA(tmp_path_factory.mktemp("throw-away-ca"))


# It is asynchronous through pytest-trio's nursery fixture, so it needs no trio_mode in the embedding project.
@pytest.fixture
def run_proxy(nursery: trio.Nursery) -> RunProxy:
    """Run proxies, each from a mapping, until the test is over; then they are stopped at once.

    ``proxy = await run_proxy({...})`` returns when every bind listens: ``proxy.frontends["imap"].addresses`` has them
    in order. Raises ConfigError with every fault.
    """

    async def run(mapping: Mapping[str, Any]) -> mailproxy.Proxy:
        config = mailproxy.from_mapping(mapping)
        proxy: mailproxy.Proxy = await nursery.start(mailproxy.serve, config)
        return proxy

    return run
