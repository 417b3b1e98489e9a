"""A server whose behaviour on each connection is set by the test."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Self

from tests.support.interop.scripted_session import GREETING, HOST
from tests.support.programs.program import TIMEOUT_S

if TYPE_CHECKING:
    import ssl

# On a busy machine, an immediate reset may look like a refused connection, also to HAProxy.
RESET_S = 0.5

Behaviour = Literal["greet", "silent", "bye", "close", "reset"]
BYE = b"* BYE overloaded\r\n"


class ControlledServer:
    """A server that listens from the start of the `with` block.

    Behaviours: ``greet`` sends the greeting and closes after the client. ``silent`` only closes after the client.
    ``bye``, ``close`` and ``reset`` end the connection at once: after a BYE, with a FIN alone, with a reset.

    Each of the first connections gets one of the given behaviours in turn. All later ones get the last behaviour.
    """

    def __init__(self, port: int, *behaviours: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self.address = HOST, port
        self._accepted = 0
        self._behaviours = list(behaviours) or ["greet"]
        self._tls = tls
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop. All clients must have closed their connections."""
        self.refuse()
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive(), "a connection is still open"

    def set_behaviour(self, *behaviours: Behaviour) -> None:
        """Set the behaviour from the next connection on."""
        self._behaviours = list(behaviours)

    def listen(self) -> None:
        assert not self._listener, "it listens already"
        self._listener = socket.create_server(self.address)
        self._accepting = self._start(self._accept, self._listener)

    def refuse(self) -> None:
        """Stop listening. Open connections continue."""
        if self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)  # ends accept() in the thread
            self._accepting.join()  # before the descriptor is another socket's
            self._listener.close()
            self._listener = None

    def _start(self, target: object, *arguments: object) -> threading.Thread:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                connection, _ = listener.accept()
                self._accepted += 1
                behaviour = self._behaviours.pop(0) if len(self._behaviours) > 1 else self._behaviours[0]
                self._start(self._run_behaviour, connection, behaviour)

    def _run_behaviour(self, connection: socket.socket, behaviour: Behaviour) -> None:
        connection.settimeout(TIMEOUT_S)
        if behaviour == "reset":
            time.sleep(RESET_S)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(connection.detach())
            return
        with connection, suppress(OSError):
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                if behaviour in ("greet", "bye"):
                    connection.sendall(GREETING if behaviour == "greet" else BYE)
                if behaviour in ("greet", "silent"):
                    while connection.recv(4096):
                        pass
