"""The begin of a hand-over, as the running instance answers it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection
from typing import NoReturn

import pytest
import trio
import trio.testing

from mailproxy.admin.handover.giver import HandOver, RefusedError
from mailproxy.log import Log
from mailproxy.net.passing.packets import VERSION
from mailproxy.proxy.state import ProxyState


class Serving:
    """A proxy that serves, and could hand over."""

    main_pid = 1
    is_stopping = False

    def capture(self) -> ProxyState:
        return ProxyState(0.0, {})

    async def pass_sockets(self, end: socket.socket, successor: int) -> None:
        pass

    def hand_over(self, end: socket.socket, successor: int, unused: Collection[str]) -> None:
        pass


async def test_lack_of_descriptors_refuses_and_the_next_try_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    hand_over = HandOver(Serving(), Log([]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hand_over.run)
        await trio.testing.wait_all_tasks_blocked()
        with monkeypatch.context() as patched:
            patched.setattr("mailproxy.admin.handover.giver.channel_pair", fail)
            with pytest.raises(RefusedError, match="there is no channel: Too many open files"):
                hand_over.start(str(VERSION), pid=1, uid=0)
        hand_over.start(str(VERSION), pid=1, uid=0).close()
        nursery.cancel_scope.cancel()
