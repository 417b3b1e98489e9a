"""A name server in Python, for tests that need no other program: it answers from a table, and takes updates."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.tsigkeyring
from attrs import define, field

SECRET = "c2VjcmV0LXNlY3JldA=="


@define(eq=False)
class NameServer:
    """The server, on UDP and TCP, closed at the end of the `with` block.

    Attributes:
        records: Texts of records by name and type.
        refuses: Whether it refuses updates.
        updates: How many updates it has taken.
    """

    records: dict[tuple[str, str], set[str]] = field(factory=dict)
    refuses: bool = False
    updates: int = 0
    _udp: socket.socket = field(init=False)
    _tcp: socket.socket = field(init=False)
    _threads: list[threading.Thread] = field(init=False)

    def __enter__(self) -> Self:
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        self._threads = [
            threading.Thread(target=serve, daemon=True) for serve in (self._serve_udp, self._serve_tcp)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._tcp, self._udp):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()  # before the descriptors are other sockets'
        self._tcp.close()
        self._udp.close()

    @property
    def port(self) -> int:
        port: int = self._tcp.getsockname()[1]
        return port

    def _serve_udp(self) -> None:
        while True:
            try:
                wire, client = self._udp.recvfrom(4096)
            except OSError:
                return
            if not wire:
                return
            self._udp.sendto(self._answer(wire), client)

    def _serve_tcp(self) -> None:
        while True:
            try:
                client, _ = self._tcp.accept()
            except OSError:
                return
            with client:
                length = int.from_bytes(client.recv(2), "big")
                answer = self._answer(client.recv(length))
                client.sendall(len(answer).to_bytes(2, "big") + answer)

    def _answer(self, wire: bytes) -> bytes:
        keyring = dns.tsigkeyring.from_text({"update": SECRET})
        try:
            request = dns.message.from_wire(wire, keyring=keyring)
        except (dns.tsig.BadSignature, dns.message.UnknownTSIGKey):
            request = dns.message.from_wire(wire, keyring=False)
            response = dns.message.make_response(request)
            response.set_rcode(dns.rcode.NOTAUTH)
            return response.to_wire()
        response = dns.message.make_response(request)
        if request.opcode() == dns.opcode.UPDATE:
            if self.refuses:
                response.set_rcode(dns.rcode.REFUSED)
            else:
                self._update(request)
            return response.to_wire()
        (question,) = request.question
        name, kind = str(question.name), dns.rdatatype.to_text(question.rdtype)
        texts = self.records.get((name, kind))
        if texts:
            response.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *sorted(texts)))
        response.flags |= dns.flags.AA
        return response.to_wire()

    def _update(self, request: dns.message.Message) -> None:
        self.updates += 1
        for rrset in request.sections[2]:
            texts = self.records.setdefault((str(rrset.name), "TXT"), set())
            for record in rrset:
                if rrset.deleting:
                    texts.discard(str(record))
                else:
                    texts.add(str(record))
