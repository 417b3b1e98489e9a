"""The lines of the state file: what was written is read, and nothing else is."""

from __future__ import annotations

import json
import random

import pytest
from attrs import evolve

from mailproxy.proxy.state.codec import StateError, decode, encode
from mailproxy.proxy.state.frontends import FrontendRecord, FrontendsRecord
from mailproxy.proxy.state.value import BackendRecord, ProxyState, ServerRecord, StickRecord

PLAIN = ServerRecord(address="192.0.2.1:143", wishes={}, is_vacated=False, health=None, up_for=None)
TABLE = StickRecord(
    prefixes=(32, 64), servers=["d1", "d2"], entries=[(7, 0, 12.5), (1 << 128 | 5, 1, 1800.0), (8, 1, -3.0)]
)
STATE = ProxyState(
    1795984953.5,
    {
        "dovecot": BackendRecord(
            servers={
                "d1": PLAIN,
                "d2": ServerRecord(
                    address="imap.example.com:143",
                    wishes={
                        "state": ("drain", "ready"),
                        "weight": (256, 1),
                        "max_sessions": (0, 10),
                        "check_port": (10143, 0),
                    },
                    is_vacated=True,
                    health=(3, 2, 3),
                    up_for=1.5,
                ),
            },
            stick=TABLE,
        ),
        "postfix": BackendRecord(servers={"p": PLAIN}, stick=None),
    },
    FrontendsRecord({"imap": FrontendRecord(True, 90, 0), "smtp": FrontendRecord(False, 0, 50)}, 400, 300),
)


def lines_of(state: ProxyState) -> list[bytes]:
    return b"".join(encode(state)).splitlines()


def test_state_survives_encoding() -> None:
    assert decode(lines_of(STATE)) == STATE


def test_many_entries_are_split_into_lines() -> None:
    entries = [(key, key % 2, 60.0) for key in range(3500)]
    table = evolve(TABLE, entries=entries)
    state = ProxyState(0.0, {"dovecot": BackendRecord(servers={}, stick=table)})
    lines = lines_of(state)
    assert len(lines) == 6
    assert decode(lines) == state


def test_state_of_a_program_that_kept_no_frontends() -> None:
    head, *rest = lines_of(STATE)
    values = {
        key: value for key, value in json.loads(head).items() if key not in ("frontends", "max_sessions")
    }
    assert decode([json.dumps(values).encode(), *rest]) == evolve(STATE, frontends=FrontendsRecord())


@pytest.mark.parametrize("number", range(len(lines_of(STATE))))
def test_missing_line_is_noticed(number: int) -> None:
    lines = lines_of(STATE)
    with pytest.raises(StateError):
        decode(lines[:number] + lines[number + 1 :])


def test_half_written_file_is_refused_at_every_byte() -> None:
    data = b"".join(encode(STATE))
    for length in range(len(data) - 1):  # the last byte is a line end
        with pytest.raises(StateError):
            decode(data[:length].splitlines())


def test_noise_is_refused_or_a_state() -> None:
    """A changed byte may be another number. It is never another exception."""
    data, dice = b"".join(encode(STATE)), random.Random(5)  # noqa: S311 - not a secret
    for _ in range(3000):
        noisy = bytearray(data)
        for _ in range(dice.randint(1, 3)):
            noisy[dice.randrange(len(noisy))] = dice.randrange(256)
        try:
            decoded = decode(bytes(noisy).splitlines())
        except StateError:
            continue
        assert isinstance(decoded, ProxyState)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "another program's file"),
        (b"\0" * 5000, "damaged"),
        (b"[]", "damaged"),
        (b"{}", "damaged"),
        (b'{"format":"haproxy"}', "another program's file"),
        (b'{"format":"mailproxy-state","version":2}', "it has version 2, and this program has 1"),
        (b"[" * 100_000, "damaged"),
        (b"1" * 100_000, "damaged"),
        (b"\xff\xfe", "damaged"),
    ],
)
def test_other_content_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(StateError, match=reason):
        decode(data.splitlines())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('["drain","ready"]', '["away","ready"]'),
        ("[256,1]", "[257,1]"),
        ("[256,1]", "[true,1]"),
        ("[256,1]", '["256",1]'),
        ("[0,10]", "[-1,10]"),
        ("[3,2,3]", "[5,2,3]"),
        ("[3,2,3]", "[-1,2,3]"),
        ("[3,2,3]", "[0,0,0]"),
        ("[3,2,3]", "[3,2]"),
        ("1.5}", "NaN}"),
        ("1.5}", "Infinity}"),
        ("[7,0,12.5]", "[7,2,12.5]"),
        ("[7,0,12.5]", "[-7,0,12.5]"),
        ("[7,0,12.5]", "[7.0,0,12.5]"),
        ("[7,0,12.5]", "[7,0]"),
        ('"prefixes":[32,64]', '"prefixes":[32]'),
        ('{"backend":"dovecot"', '{"backend":"nobody"'),
        ('{"backend":"dovecot"', '{"backend":"postfix"'),
        ('"servers":["d1","d2"]', '"servers":[1,2]'),
    ],
)
def test_value_that_is_not_allowed_is_refused(before: str, after: str) -> None:
    text = b"".join(encode(STATE)).decode()
    assert text.count(before) == 1
    with pytest.raises(StateError, match="damaged"):
        decode(text.replace(before, after).encode().splitlines())


def test_keys_of_a_later_version_are_ignored() -> None:
    """The version changes only when old programs would understand something wrongly."""
    lines = lines_of(STATE)
    head = json.loads(lines[0])
    head["listeners"] = {}
    server = head["backends"]["postfix"]["servers"]["p"]
    server["colour"], server["wishes"]["colour"] = "blue", ["red", "blue"]
    assert decode([json.dumps(head).encode(), *lines[1:]]) == STATE
