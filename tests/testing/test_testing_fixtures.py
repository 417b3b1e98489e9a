"""Fixtures for embedding projects: they work as documented, and ``import mailproxy.testing`` loads little."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

import mailproxy
import mailproxy.testing
from mailproxy.testing import ImapServer, ScriptedServer, dial
from tests.support.timeouts import TIMEOUT_S

if TYPE_CHECKING:
    from pathlib import Path

    from mailproxy.testing import ThrowAwayCA
    from mailproxy.testing.fixtures import RunProxy

pytest_plugins = ["mailproxy.testing.fixtures", "pytester"]


async def test_proxy_runs_from_a_mapping(
    run_proxy: RunProxy, throw_away_ca: ThrowAwayCA, nursery: trio.Nursery, tmp_path: Path
) -> None:
    server = ImapServer("d1")
    proxy = await run_proxy(
        {
            "frontends": {
                "imap": {
                    "protocol": "imap",
                    "backend": "b",
                    "tls": {"certificates": [str(throw_away_ca.issue("localhost"))]},
                    "bind": [
                        {"address": "127.0.0.1:0"},
                        {"address": "[::1]:0", "mode": "tls"},
                        {"address": f"unix:{tmp_path / 'imap.sock'}"},
                    ],
                }
            },
            "backends": {"b": {"servers": [await nursery.start(server.serve)]}},
        }
    )
    clear, tls, unix = proxy.frontends["imap"].addresses
    assert (clear.rpartition(":")[0], tls.rpartition(":")[0]) == ("127.0.0.1", "[::1]")
    assert unix == f"unix:{tmp_path / 'imap.sock'}"
    with trio.fail_after(TIMEOUT_S):
        for address, context in ((clear, None), (tls, throw_away_ca.client_context()), (unix, None)):
            async with await dial(address, tls=context) as client:
                assert (await client.receive_line()).endswith(b"d1 ready\r\n")
        await server.wait_ended(3)


async def test_two_proxies_in_a_chain(run_proxy: RunProxy, nursery: trio.Nursery) -> None:
    server = ScriptedServer()

    def proxy_config(address: str) -> dict[str, object]:
        return {
            "frontends": {"f": {"backend": "b", "bind": [{"address": "127.0.0.1:0"}]}},
            "backends": {"b": {"servers": [address]}},
        }

    first = await run_proxy(proxy_config(await nursery.start(server.serve)))
    second = await run_proxy(proxy_config(first.frontends["f"].addresses[0]))
    with trio.fail_after(TIMEOUT_S):
        async with await dial(second.frontends["f"].addresses[0]) as client:
            assert await client.receive_line() == b"* OK ready\r\n"


async def test_faulty_mapping_raises_every_fault(run_proxy: RunProxy) -> None:
    with pytest.raises(mailproxy.ConfigError) as caught:
        await run_proxy({"frontends": {"f": {"backend": "nowhere", "bind": [{"adress": "127.0.0.1:0"}]}}})
    assert len(caught.value.faults) >= 2


@pytest.mark.slow
def test_fixtures_work_in_another_project(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["mailproxy.testing.fixtures"]')
    pytester.makepyfile(
        """
        import pytest
        from mailproxy.testing import ScriptedServer, dial

        @pytest.mark.trio  # without trio_mode
        async def test_it(run_proxy, nursery):
            proxy = await run_proxy({
                "frontends": {"f": {"backend": "b", "bind": [{"address": "127.0.0.1:0"}]}},
                "backends": {"b": {"servers": [await nursery.start(ScriptedServer().serve)]}},
            })
            async with await dial(proxy.frontends["f"].addresses[0]) as client:
                assert await client.receive_line() == b"* OK ready\\r\\n"
        """
    )
    pytester.runpytest_subprocess("-Werror").assert_outcomes(passed=1)


@pytest.mark.parametrize("missing", ["pytest", "pytest_trio"])
def test_missing_dependency_names_the_extra(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; import mailproxy.testing.fixtures"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "ImportError: " in result.stderr
    assert "pip install 'mailproxy[testing]'" in result.stderr.splitlines()[-1]


def test_import_loads_no_heavy_package() -> None:
    program = "import sys, mailproxy.testing; print(sorted({'trio', 'ssl', 'pytest', 'trustme'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_every_public_name_exists() -> None:
    assert sorted(mailproxy.testing.__all__) == dir(mailproxy.testing)
    for name in mailproxy.testing.__all__:
        assert getattr(mailproxy.testing, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        mailproxy.testing.nothing  # noqa: B018  # the access must raise
