"""PROXY headers: any valid header, split at any offset, and damaged ones."""

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


def max_bytes(data: bytes) -> int:
    return V1_MAX if data.startswith(b"P") else HEADER_MAX


# Writing and reading


@given(headers_v1)
@settings(max_examples=200, deadline=None)
def test_written_line_is_read_again(header: HeaderV1) -> None:
    data = format_header(header)
    assert parse(data) == (header, len(data))


@given(headers_v2)
@settings(max_examples=200, deadline=None)
def test_written_binary_header_is_read_again(header: HeaderV2) -> None:
    data = format_header(header)
    assert parse(data) == (header, len(data))


@given(headers, st.binary(max_size=50))
@settings(max_examples=100, deadline=None)
def test_bytes_after_header_are_ignored(header: Header, extra: bytes) -> None:
    data = format_header(header)
    assert parse(data + extra) == (header, len(data))


# Split input


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_incomplete_header_needs_more(data: bytes) -> None:
    for received in range(len(data)):
        answer = parse(data[:received])
        assert isinstance(answer, NeedMore)
        assert received < answer.total <= len(data)


@given(headers)
@settings(max_examples=60, deadline=None)
def test_any_incomplete_header_needs_more(header: Header) -> None:
    data = format_header(header)
    for received in range(len(data)):
        answer = parse(data[:received])
        assert isinstance(answer, NeedMore)
        assert received < answer.total <= len(data)


@given(headers, st.binary(max_size=20), st.data())
@settings(max_examples=100, deadline=None)
def test_header_is_read_in_any_pieces(header: Header, extra: bytes, data_source: st.DataObject) -> None:
    data = format_header(header)
    stream, received = data + extra, 0
    while isinstance(answer := parse(stream[:received]), NeedMore):
        received += data_source.draw(st.integers(1, 40))
    assert answer == (header, len(data))


@given(headers)
@settings(max_examples=100, deadline=None)
def test_requested_bytes_end_with_the_header(header: Header) -> None:
    data = format_header(header)
    stream, received, reads = data + b"EHLO client.example\r\n", 0, 0
    while isinstance(answer := parse(stream[:received]), NeedMore):
        received, reads = answer.total, reads + 1
    assert (answer, received) == ((header, len(data)), len(data))
    assert reads <= (V1_MAX if header.version == 1 else 3)


# Noise


@given(noise)
@settings(max_examples=400, deadline=None)
def test_noise_is_refused_incomplete_or_written_back(data: bytes) -> None:
    answer = outcome(data)
    if isinstance(answer, NeedMore):
        assert len(data) < answer.total <= max_bytes(data)
    elif isinstance(answer, tuple):
        header, length = answer
        assert 0 < length <= max_bytes(data)
        assert format_header(header) == data[:length]


@given(noise)
@settings(max_examples=100, deadline=None)
def test_verdict_is_final_as_bytes_follow(data: bytes) -> None:
    answers = [outcome(data[:received]) for received in range(len(data) + 1)]
    final = [answer for answer in answers if not isinstance(answer, NeedMore)]
    waiting = answers[: len(answers) - len(final)]
    assert all(
        isinstance(answer, NeedMore) and received < answer.total for received, answer in enumerate(waiting)
    )
    assert all(answer == final[0] for answer in final)


@given(noise, st.binary(min_size=1, max_size=50))
@settings(max_examples=300, deadline=None)
def test_further_bytes_do_not_change_an_error(data: bytes, extra: bytes) -> None:
    answer = outcome(data)
    if not isinstance(answer, NeedMore):
        assert outcome(data + extra) == answer


@given(st.binary(min_size=1, max_size=V1_MAX))
@settings(max_examples=100, deadline=None)
def test_line_at_its_limit_needs_no_more(data: bytes) -> None:
    assert not isinstance(outcome((b"PROXY UNKNOWN " + data).ljust(V1_MAX, b"x")), NeedMore)
