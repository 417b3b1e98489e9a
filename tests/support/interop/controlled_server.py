"""A server that does as it is told, with each connection as the test has said."""

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

# A reset that comes with the connection may pass for a refused one, on a busy machine and at HAProxy, too.
RESET_S = 0.1

Conduct = Literal["greet", "silent", "bye", "close", "reset"]
BYE = b"* BYE overloaded\r\n"


class ControlledServer:
    """Listens from the beginning. ``greet``: greet, and close when the client has; ``silent``: only the latter;
    ``bye``, ``close``, ``reset``: end it at once, after a goodbye, with a FIN alone, with a reset.

    The first connections meet the first conducts, one each, all others the last one.
    """

    def __init__(self, port: int, *conducts: Conduct, tls: ssl.SSLContext | None = None) -> None:
        self.address = HOST, port
        self.met = 0  # connections so far
        self._conducts = list(conducts) or ["greet"]
        self._tls = tls
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        """Everybody must have left."""
        self.refuse()
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive(), "somebody is still there"

    def set_behaviour(self, *conducts: Conduct) -> None:
        """From the next connection on."""
        self._conducts = list(conducts)

    def listen(self) -> None:
        assert not self._listener, "it does already"
        self._listener = socket.create_server(self.address)
        self._start(self._accept, self._listener)

    def refuse(self) -> None:
        """Connections that are there go on."""
        if self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)  # ends the accepting, too
            self._listener.close()
            self._listener = None

    def _start(self, target: object, *arguments: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # it refuses
            while True:
                connection, _ = listener.accept()
                self.met += 1
                conduct = self._conducts.pop(0) if len(self._conducts) > 1 else self._conducts[0]
                self._start(self._run_behaviour, connection, conduct)

    def _run_behaviour(self, connection: socket.socket, conduct: Conduct) -> None:
        connection.settimeout(TIMEOUT_S)
        if conduct == "reset":
            time.sleep(RESET_S)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(connection.detach())
            return
        with connection, suppress(OSError):
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                if conduct in ("greet", "bye"):
                    connection.sendall(GREETING if conduct == "greet" else BYE)
                if conduct in ("greet", "silent"):
                    while connection.recv(4096):
                        pass
