"""Dialogues of greeters as transcripts: `S:` is a line of the greeter, `C:` one of the client, `=` the outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import ndiff
from itertools import groupby

import pytest

from mailproxy.protocol.greeter.announcement import announced
from mailproxy.protocol.greeter.greeter import Greeter
from mailproxy.protocol.greeter.registry import GREETERS

Cut = Callable[[bytes], Iterable[bytes]]

LISTED: dict[str, list[tuple[str, ...]]] = {
    "imap": [("IMAP4rev1",), ("ID",), ("IDLE",), ("AUTH=PLAIN",), ("SASL-IR",)],
    "pop3": [("TOP",), ("UIDL",), ("SASL", "PLAIN"), ("USER",)],
    "smtp": [
        ("PIPELINING",),
        ("SIZE", "1000"),
        ("AUTH", "PLAIN"),
        ("CHUNKING",),
        ("REQUIRETLS",),
        ("XCLIENT", "ADDR"),
    ],
    "submission": [("PIPELINING",), ("SIZE", "1000"), ("AUTH", "PLAIN"), ("CHUNKING",)],
    "lmtp": [("PIPELINING",), ("8BITMIME",), ("XCLIENT", "ADDR")],
    "sieve": [
        ("IMPLEMENTATION", "Dovecot"),
        ("SIEVE", "fileinto reject"),
        ("SASL", "PLAIN"),
        ("VERSION", "1.0"),
    ],
}


def make_greeter(protocol: str, *, required: bool = True, max_errors: int = 10) -> Greeter:
    """Return a greeter that announces what LISTED has."""
    lines = announced(protocol, LISTED[protocol], offers_login=not required)
    return GREETERS[protocol](
        lines, text="ready", host="mx.example", required=required, max_errors=max_errors
    )


def talk(greeter: Greeter, pieces: Iterable[bytes]) -> bytes:
    """Return all that the greeter answers to these pieces."""
    answers = b""
    for piece in pieces:
        greeter.receive(piece)
        while answer := greeter.next_answer():
            answers += answer
    return answers


def run_greeting(greeter: Greeter, transcript: str, cut: Cut) -> None:
    """Fail with a diff unless the greeter's part is as in the transcript."""
    expected = [line for line in transcript.splitlines() if line]
    actual = list(_run(greeter, expected, cut))
    if actual != expected:
        pytest.fail("\n".join(ndiff(expected, actual)))


def client_bytes(transcript: str) -> bytes:
    """Return all bytes that the client sends in the transcript."""
    return b"".join(_on_the_wire(line) for line in transcript.splitlines() if line.startswith("C: "))


def _run(greeter: Greeter, expected: list[str], cut: Cut) -> Iterable[str]:
    yield from _sent(greeter.greet())
    for is_client, group in groupby(expected, lambda line: line.startswith("C: ")):
        if is_client:
            lines = list(group)
            yield from lines
            yield from _sent(talk(greeter, cut(b"".join(map(_on_the_wire, lines)))))
    unread = f", unread {greeter.unread!r}" if greeter.unread else ""
    yield f"= {greeter.outcome.name if greeter.outcome else 'waits'}{unread}"


def _sent(data: bytes) -> Iterable[str]:
    lines = data.decode("latin-1").split("\r\n")
    assert lines.pop() == "", "every answer ends with CRLF"
    return [f"S: {line}" for line in lines]


def _on_the_wire(line: str) -> bytes:
    text = line.removeprefix("C: ")
    # "..." ends a line without CRLF: its rest has not arrived.
    return text.removesuffix("...").encode() if text.endswith("...") else text.encode() + b"\r\n"
