"""The running instance at a hand-over: passes its sockets on, and goes on until the successor accepts."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection
from typing import Protocol

import trio

from mailproxy.ipc.channel import channel_pair
from mailproxy.log import Log
from mailproxy.log.events import HANDOVER_FAILED, HANDOVER_STARTED
from mailproxy.net.passing.packets import VERSION, HandoverError, Packet, receive_nowait, send
from mailproxy.proxy.state.codec import encode
from mailproxy.proxy.state.file import write_memory
from mailproxy.proxy.state.value import ProxyState
from mailproxy.proxy.supervise import contained
from mailproxy.version import __version__

_SEND_TIMEOUT_S = 5.0  # for the successor to take a packet
_START_TIMEOUT_S = 300.0  # for it to start; until then no other one gets the sockets
_ADDRESSES_MAX = 4096


class Giver(Protocol):
    """A proxy that can hand its sockets over."""

    @property
    def main_pid(self) -> int:
        """The process that the operator, or the service manager, has started."""

    @property
    def is_stopping(self) -> bool:
        """Whether the proxy starts, drains or stops: it hands nothing over then."""

    def capture(self) -> ProxyState:
        """Return the state of all backends."""

    async def pass_sockets(self, end: socket.socket, successor: int) -> None:
        """Send all listening sockets to a successor, then the packet ``end``.

        Args:
            end: This side's end of the channel.
            successor: The successor's main process.

        Raises:
            HandoverError: It does not take them.
        """

    def hand_over(self, end: socket.socket, successor: int, unused: Collection[str]) -> None:
        """Have the main process stop accepting and drain, and then confirm that with the packet ``ok``.

        Args:
            end: This side's end of the channel.
            successor: The successor's main process.
            unused: The addresses that it does not listen on.
        """


class RefusedError(Exception):
    """There is no hand-over. The message says why."""


class HandOver:
    """Serves successors, one at a time.

    Args:
        giver: The proxy; None if it belongs to another program, which cannot be replaced.
        log: The log.
    """

    def __init__(self, giver: Giver | None, log: Log) -> None:
        self._giver = giver
        self._log = log
        self._nursery: trio.Nursery | None = None
        self._successor: int | None = None

    async def run(self) -> None:
        """Serve the successors that ``start`` announces, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    def start(self, version: str, *, pid: int, uid: int) -> socket.socket:
        """Begin to hand over to a process, and return its end of the channel.

        Args:
            version: The version of the dialogue that it wants.
            pid: The process.
            uid: Its user.

        Raises:
            RefusedError: It cannot be done.
        """
        giver, nursery = self._giver, self._nursery
        if version != str(VERSION):
            raise RefusedError(
                f"mailproxy {__version__} hands over in version {VERSION} of the dialogue, not in {version or 'none'}"
            )
        if uid not in (0, os.geteuid()):
            raise RefusedError(f"only the user {os.geteuid()} or root may take over, not user {uid}")
        if giver is None or nursery is None:
            raise RefusedError("this proxy is part of another program")
        if giver.is_stopping:
            raise RefusedError("the proxy is starting or stopping")
        if self._successor is not None:
            raise RefusedError(f"process {self._successor} is taking over")
        try:
            ours, theirs = channel_pair()
        except OSError as error:  # out of descriptors
            raise RefusedError(f"there is no channel: {error.strerror}") from None
        self._successor = pid
        nursery.start_soon(self._serve, giver, ours, pid)
        return theirs

    async def _serve(self, giver: Giver, end: socket.socket, pid: int) -> None:
        with contained(self._log, "hand-over"), end:
            try:
                await self._hand_over(giver, end, pid)
            except (HandoverError, OSError) as error:
                self._log.event(
                    HANDOVER_FAILED,
                    f"process {pid} has not taken over, and this one goes on: {error}",
                    pid=pid,
                    reason=str(error),
                )
            finally:
                self._successor = None

    async def _hand_over(self, giver: Giver, end: socket.socket, pid: int) -> None:
        """Pass on everything, then wait for the successor.

        Raises:
            HandoverError: The successor has ended before it accepts.
        """
        self._log.event(HANDOVER_STARTED, f"process {pid} gets the listening sockets", pid=pid)
        deadline = time.monotonic() + _SEND_TIMEOUT_S
        send(end, "hello", deadline=deadline, version=__version__, pid=giver.main_pid)
        memory = await trio.to_thread.run_sync(write_memory, encode(giver.capture()))
        try:
            send(end, "state", memory, deadline=deadline)
        finally:
            os.close(memory)
        await giver.pass_sockets(end, pid)
        with trio.move_on_after(_START_TIMEOUT_S) as scope:
            packet = await _next(end)
        if scope.cancelled_caught:
            raise HandoverError(f"it does not accept after {_START_TIMEOUT_S:g} s")
        if packet.type != "take-over":
            raise HandoverError(f"it sends {packet.type!r}")
        giver.hand_over(end, pid, _addresses(packet))


async def _next(end: socket.socket) -> Packet:
    while True:
        await trio.lowlevel.wait_readable(end)
        try:
            packet = receive_nowait(end)
        except BlockingIOError:
            continue
        for fd in packet.descriptors:
            os.close(fd)
        return packet


def _addresses(packet: Packet) -> list[str]:
    addresses = packet.values.get("unused")
    if not isinstance(addresses, list) or len(addresses) > _ADDRESSES_MAX:
        raise HandoverError("a packet is damaged: take-over")
    return [each for each in addresses if isinstance(each, str)]
