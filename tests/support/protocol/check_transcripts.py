"""Dialogues of health checks as transcripts: the lines of both sides in order, and a diff if they differ.

`S:` is a line of the server, `C:` one of the check. `(TLS)` is the handshake if the check wants one, `(closed)` the
server's end of the connection, and `=` the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import ndiff
from itertools import groupby

import pytest

from mailproxy.protocol.checks.dialogue import CheckDialogue

Cut = Callable[[bytes], Iterable[bytes]]


def in_one_piece(data: bytes) -> Iterable[bytes]:
    return [data]


def byte_by_byte(data: bytes) -> Iterable[bytes]:
    return [data[n : n + 1] for n in range(len(data))]


def run_transcript(dialogue: CheckDialogue, transcript: str, cut: Cut = in_one_piece) -> None:
    """Fail with a diff unless the dialogue matches the transcript."""
    expected = [line for line in transcript.splitlines() if line]
    actual = list(_run(dialogue, expected, cut))
    if actual != expected:
        pytest.fail("\n".join(ndiff(expected, actual)))


def server_bytes(transcript: str) -> bytes:
    """Return all bytes that the server sends in the transcript."""
    return b"".join(_on_the_wire(line) for line in transcript.splitlines() if line.startswith("S: "))


def outcome(dialogue: CheckDialogue, pieces: Iterable[bytes]) -> tuple[bytes, str]:
    """Return all bytes that the check sends in answer to these, and its result. TLS is never started."""
    sent = dialogue.start()
    for piece in pieces:
        sent += dialogue.receive(piece)
    return sent, _result_of(dialogue)


def _run(dialogue: CheckDialogue, expected: list[str], cut: Cut) -> Iterable[str]:
    yield from _sent_lines(dialogue.start())
    for is_server, group in groupby(expected, lambda line: line.startswith("S: ")):
        lines = list(group)
        if is_server:
            yield from lines
            pieces = cut(b"".join(map(_on_the_wire, lines)))
            yield from _sent_lines(b"".join([dialogue.receive(piece) for piece in pieces]))
        if "(TLS)" in lines and dialogue.wants_tls:
            yield "(TLS)"
            yield from _sent_lines(dialogue.tls_started())
        if "(closed)" in lines:
            yield "(closed)"
            yield from _sent_lines(dialogue.receive(b""))
    yield f"= {_result_of(dialogue)}"


def _result_of(dialogue: CheckDialogue) -> str:
    if dialogue.is_over:
        return str(dialogue.result)
    return f"{dialogue.failure or 'nothing'}, waits for {dialogue.expecting}"


def _sent_lines(data: bytes) -> Iterable[str]:
    lines = data.decode("latin-1").split("\r\n")
    assert lines.pop() == "", "every command ends with CRLF"
    return [f"C: {line}" for line in lines]


def _on_the_wire(line: str) -> bytes:
    return line.removeprefix("S: ").encode() + b"\r\n"
