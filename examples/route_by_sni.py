"""Terminate TLS, and select the backend by the server name (SNI) that the client sends."""

from pathlib import Path
from tempfile import TemporaryDirectory

import trio

import mailproxy
from mailproxy.testing import ImapServer, ThrowAwayCA, dial


async def main(folder: Path) -> None:
    ca = ThrowAwayCA(folder)
    async with trio.open_nursery() as nursery:
        new, old = [await nursery.start(ImapServer(name).serve) for name in ("new", "old")]
        config = mailproxy.from_mapping(
            {
                "frontends": {
                    "imaps": {
                        "bind": [{"address": "127.0.0.1:0", "mode": "tls"}],
                        "tls": {"certificates": [str(ca.issue("imap.example.com", "old.example.com"))]},
                        "backend": "new",
                        "routes": [{"sni": ["old.example.com"], "backend": "old"}],
                    }
                },
                "backends": {"new": {"servers": [new]}, "old": {"servers": [old]}},
            }
        )
        proxy: mailproxy.Proxy = await nursery.start(mailproxy.serve, config)
        (address,) = proxy.frontends["imaps"].addresses
        for name in ("imap.example.com", "old.example.com"):
            async with await dial(address, tls=ca.client_context(), server_name=name) as client:
                print(f"{name}: {(await client.receive_line()).decode().strip()}")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        trio.run(main, Path(temporary))
