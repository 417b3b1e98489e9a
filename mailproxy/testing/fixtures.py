"""pytest fixtures: a throw-away CA, and proxies that run for one test.

To use them, write ``pytest_plugins = ["mailproxy.testing.fixtures"]`` in the outermost ``conftest.py`` or in a test module.
Tests that use ``run_proxy`` are ``async def`` and run by pytest-trio: with ``trio_mode``, or marked ``trio``.
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

import mailproxy  # noqa: E402 -- the error about missing packages comes first
from mailproxy.testing.ca import ThrowAwayCA  # noqa: E402 -- the error about missing packages comes first

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import trio

RunProxy: TypeAlias = "Callable[[Mapping[str, Any]], Awaitable[mailproxy.Proxy]]"


@pytest.fixture(scope="session")
def throw_away_ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowAwayCA:
    """Return a CA for all tests of the run, in a folder of its own."""
    return ThrowAwayCA(tmp_path_factory.mktemp("throw-away-ca"))


# It is synchronous and uses pytest-trio's nursery fixture, so it works without trio_mode.
@pytest.fixture
def run_proxy(nursery: trio.Nursery) -> RunProxy:
    """Return a function that runs proxies until the test ends.

    ``proxy = await run_proxy({...})`` takes a configuration as a mapping. It returns a ``mailproxy.Proxy`` when every bind
    listens, and ``proxy.frontends["imap"].addresses`` has their addresses in order. It raises ``mailproxy.ConfigError``
    with all faults of the configuration. The proxies are cancelled at the end of the test.
    """

    async def run(mapping: Mapping[str, Any]) -> mailproxy.Proxy:
        config = mailproxy.from_mapping(mapping)
        proxy: mailproxy.Proxy = await nursery.start(mailproxy.serve, config)
        return proxy

    return run
