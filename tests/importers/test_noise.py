"""Any bytes as input end in a result or in a message with a place, and never in another exception."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mailproxy.errors import ConfigError
from mailproxy.importers.files import decode
from mailproxy.importers.run import import_texts
from tests.support.imports import FILES, program_of

TEXTS = {file: file.read_bytes() for file in FILES}
WORDS = sorted({word for text in TEXTS.values() for word in text.split() if len(word) < 30})

file_contents = st.sampled_from([(program_of(file), text) for file, text in TEXTS.items()])
pieces = st.one_of(
    st.binary(max_size=4),
    st.sampled_from(WORDS),
    st.sampled_from(
        [
            b'"',
            b"'",
            b"{",
            b"}",
            b";",
            b"\\",
            b"#",
            b"\n",
            b"$",
            b"${",
            b"[",
            b"]",
            b":",
            b"!",
            b",",
            b"-",
            b"0",
            b"\xff",
            b"\xc3\xa9",
        ]
    ),
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a configuration with parts taken out, put in, doubled and exchanged."""
    program, text = draw(file_contents)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(0, 40)))
        text = draw(st.sampled_from([
            text[:at] + draw(pieces) + text[at:],
            text[:at] + text[end:],
            text[:at] + text[at:end] * 2 + text[end:],
            text[:at],
            text[end:] + text[:at],
        ]))  # fmt: skip
    return program, text


def import_bytes(program: str, content: bytes) -> None:
    try:
        import_texts(program, [("file", decode(content, "file"))])
    except ConfigError as error:
        place = str(error).partition(" ")[0]
    else:
        place = "file:1:1:"
    assert re.fullmatch(r"file:[1-9]\d*:[1-9]\d*:", place)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_mutated_file(drawn: tuple[str, bytes]) -> None:
    import_bytes(*drawn)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["haproxy", "nginx", "caddy", "traefik"]), st.binary(max_size=200))
@example("caddy", b'{"apps":')
@example("caddy", b'{"a": 1e9999}')
@example("nginx", b"a\\")
@example("haproxy", b"listen x\n server a $\n bind \\x")
def test_any_bytes(program: str, content: bytes) -> None:
    import_bytes(program, content)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(["haproxy", "nginx", "caddy", "traefik"]),
    st.lists(st.sampled_from([*WORDS, b"\n", b"\n ", b" "]), max_size=60),
)
def test_any_words(program: str, words: list[bytes]) -> None:
    import_bytes(program, b" ".join(words))


@pytest.mark.parametrize("program", ["haproxy", "nginx", "caddy", "traefik"])
def test_deep_nesting(program: str) -> None:
    for text in ("a {\n" * 5_000, "[" * 5_000, '{"a":' * 5_000, ".if 1\n" * 5_000):
        import_bytes(program, text.encode())


@pytest.mark.parametrize("program", ["haproxy", "nginx", "caddy", "traefik"])
def test_zero_bytes_are_no_text(program: str) -> None:
    with pytest.raises(ConfigError, match=r"^file:2:3: the byte 0x00 is no text"):
        import_texts(program, [("file", decode(b"a\nbc\0", "file"))])


def test_latin_1_is_text() -> None:
    result = import_texts("haproxy", [("file", decode(b"global\n maxconn 5 # gr\xfcn\n", "file"))])
    assert "max_sessions = 5  # gr\u00fcn" in result.text
