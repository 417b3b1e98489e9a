"""Follow the state of servers: one passes its health checks, the other one refuses connections."""

import trio

import mailproxy
from mailproxy.testing import ImapServer, RefusingServer


async def wait_checked(proxy: mailproxy.Proxy) -> None:
    """Wait until each server was checked once."""
    while any(  # noqa: ASYNC110 -- a server has no event to wait for
        server.last_check is None
        for backend in proxy.backends.values()
        for server in backend.servers.values()
    ):
        await trio.sleep(0.05)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        up = await nursery.start(ImapServer("d1").serve)
        down = await nursery.start(RefusingServer().serve)
        config = mailproxy.from_mapping(
            {
                "frontends": {"imap": {"protocol": "imap", "backend": "dovecot", "bind": ["127.0.0.1:0"]}},
                "backends": {
                    "dovecot": {
                        "check": {"interval": "200ms", "fall": 1},
                        "servers": [{"name": "d1", "address": up}, {"name": "d2", "address": down}],
                    }
                },
            }
        )
        proxy: mailproxy.Proxy = await nursery.start(mailproxy.serve, config)
        with trio.fail_after(10):
            await wait_checked(proxy)
        for server in proxy.backends["dovecot"].servers.values():
            print(f"{server.name}: {server.status}, {server.last_check}, {server.counts.checks} checks")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
