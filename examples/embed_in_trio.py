"""Run the proxy inside a Trio program, take one server out of rotation, and stop."""

import trio

import mailproxy
from mailproxy.testing import ImapServer, dial


async def greeting(address: str) -> str:
    async with await dial(address) as client:
        return (await client.receive_line()).decode().strip()


async def main() -> None:
    async with trio.open_nursery() as nursery:
        # Two mail servers on free ports. Your program has the addresses of real ones.
        servers = [
            {"name": name, "address": await nursery.start(ImapServer(name).serve)} for name in ("d1", "d2")
        ]
        config = mailproxy.from_mapping(
            {
                "frontends": {"imap": {"backend": "dovecot", "bind": ["127.0.0.1:0"]}},
                "backends": {"dovecot": {"balance": "roundrobin", "servers": servers}},
            }
        )
        # serve reports the running proxy when every bind listens.
        proxy: mailproxy.Proxy = await nursery.start(mailproxy.serve, config)
        (address,) = proxy.frontends["imap"].addresses

        for _ in range(2):
            print(await greeting(address))
        proxy.backends["dovecot"].servers["d1"].set_state("drain")
        print("d1 drains:", await greeting(address))

        await proxy.drain(5)  # sessions get five seconds to end
        nursery.cancel_scope.cancel()  # stops the mail servers


if __name__ == "__main__":
    trio.run(main)
