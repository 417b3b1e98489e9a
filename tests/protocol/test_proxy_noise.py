"""PROXY headers cut anywhere, damaged anyhow, and every one that can be written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailproxy.protocol.preamble import NeedMore
from mailproxy.protocol.proxy_header import (
    HEADER_MAX,
    V1_MAX,
    Header,
    HeaderV1,
    HeaderV2,
    format_header,
    parse,
)
from tests.support.protocol.proxy_headers import KINDS, headers, headers_v1, headers_v2, noise, outcome


def most_bytes(data: bytes) -> int:
    return V1_MAX if data.startswith(b"P") else HEADER_MAX


# Writing and reading.


@given(headers_v1)
@settings(max_examples=200, deadline=None)
def test_a_line_that_is_written_is_read_again(header: HeaderV1) -> None:
    data = format_header(header)
    assert parse(data) == (header, len(data))


@given(headers_v2)
@settings(max_examples=200, deadline=None)
def test_a_binary_header_that_is_written_is_read_again(header: HeaderV2) -> None:
    data = format_header(header)
    assert parse(data) == (header, len(data))


@given(headers, st.binary(max_size=50))
@settings(max_examples=100, deadline=None)
def test_nothing_behind_a_header_is_looked_at(header: Header, behind: bytes) -> None:
    data = format_header(header)
    assert parse(data + behind) == (header, len(data))


# Pieces.


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_a_header_is_waited_for_wherever_it_is_cut(data: bytes) -> None:
    for have in range(len(data)):
        answer = parse(data[:have])
        assert isinstance(answer, NeedMore)
        assert have < answer.total <= len(data)


@given(headers)
@settings(max_examples=60, deadline=None)
def test_any_header_is_waited_for_wherever_it_is_cut(header: Header) -> None:
    data = format_header(header)
    for have in range(len(data)):
        answer = parse(data[:have])
        assert isinstance(answer, NeedMore)
        assert have < answer.total <= len(data)


@given(headers, st.binary(max_size=20), st.data())
@settings(max_examples=100, deadline=None)
def test_pieces_of_any_size_make_the_whole(header: Header, behind: bytes, pieces: st.DataObject) -> None:
    data = format_header(header)
    stream, have = data + behind, 0
    while isinstance(answer := parse(stream[:have]), NeedMore):
        have += pieces.draw(st.integers(1, 40))
    assert answer == (header, len(data))


@given(headers)
@settings(max_examples=100, deadline=None)
def test_who_reads_no_more_than_is_asked_for_ends_at_the_header(header: Header) -> None:
    data = format_header(header)
    stream, have, asked = data + b"EHLO client.example\r\n", 0, 0
    while isinstance(answer := parse(stream[:have]), NeedMore):
        have, asked = answer.total, asked + 1
    assert (answer, have) == ((header, len(data)), len(data))
    assert asked <= (V1_MAX if header.version == 1 else 3)


# Noise.


@given(noise)
@settings(max_examples=400, deadline=None)
def test_noise_is_refused_waited_for_or_written_back(data: bytes) -> None:
    answer = outcome(data)
    if isinstance(answer, NeedMore):
        assert len(data) < answer.total <= most_bytes(data)
    elif isinstance(answer, tuple):
        header, length = answer
        assert 0 < length <= most_bytes(data)
        assert format_header(header) == data[:length]


@given(noise)
@settings(max_examples=100, deadline=None)
def test_what_was_once_said_of_some_bytes_stays_whatever_follows(data: bytes) -> None:
    answers = [outcome(data[:have]) for have in range(len(data) + 1)]
    final = [answer for answer in answers if not isinstance(answer, NeedMore)]
    waiting = answers[: len(answers) - len(final)]
    assert all(isinstance(answer, NeedMore) and have < answer.total for have, answer in enumerate(waiting))
    assert all(answer == final[0] for answer in final)


@given(noise, st.binary(min_size=1, max_size=50))
@settings(max_examples=300, deadline=None)
def test_an_error_is_not_mended_by_more_bytes(data: bytes, more: bytes) -> None:
    answer = outcome(data)
    if not isinstance(answer, NeedMore):
        assert outcome(data + more) == answer


@given(st.binary(min_size=1, max_size=V1_MAX))
@settings(max_examples=100, deadline=None)
def test_no_line_is_waited_for_beyond_its_limit(data: bytes) -> None:
    assert not isinstance(outcome((b"PROXY UNKNOWN " + data).ljust(V1_MAX, b"x")), NeedMore)
