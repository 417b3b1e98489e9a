"""TLS in the kernel: used where it is, and otherwise OpenSSL does the same."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from mailproxy.net.tls.kernel import has_kernel_tls
from mailproxy.testing import Close, Expect, Send, dial
from tests.support.proxy.proxy_harness import ProxyHarness

KTLS: dict[str, Any] = {"frontends": {"f": {"tls": {"ktls": True}}}}
BULK = os.urandom(1 << 20) * 8

needs_kernel_tls = pytest.mark.skipif(not has_kernel_tls(), reason="this kernel has no TLS: modprobe tls")
on_each_version = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


async def download(harness: ProxyHarness, version: ssl.TLSVersion) -> None:
    """Download bulk through a frontend with ``ktls``, send a line upwards, and close with close_notify."""
    server = await harness.server((Send(BULK), Expect(b"more\r\n"), Send(b"done\r\n"), Close()))
    proxy = await harness.proxy(server.address, tls=True, **KTLS)
    context = harness.ca.client_context()
    context.minimum_version = context.maximum_version = version
    client = await dial(proxy.frontends["f"].addresses[0], tls=context)
    assert await client.receive_exactly(len(BULK)) == BULK
    await client.send(b"more\r\n")
    assert await client.receive_line() == b"done\r\n"
    assert await client.receive_until_end() == b""
    client.drop()


@on_each_version
async def test_frontend_with_ktls_serves_on_every_kernel(
    harness: ProxyHarness, version: ssl.TLSVersion
) -> None:
    await download(harness, version)


@needs_kernel_tls
@on_each_version
async def test_kernel_encrypts_bulk_that_is_not_copied(
    harness: ProxyHarness, version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    spliced = 0
    splice: Callable[..., int] = os.splice

    def count(*arguments: Any, **options: Any) -> int:
        nonlocal spliced
        moved = splice(*arguments, **options)
        spliced += moved
        return moved

    monkeypatch.setattr(os, "splice", count)
    await download(harness, version)
    assert spliced > len(BULK), "most bytes go into a pipe and out of it"
