"""A line as commands and a command as words, as HAProxy 2.6 takes them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.admin.runtime.parser import WORDS_MAX, split_commands, split_words


@pytest.mark.parametrize(
    ("line", "commands"),
    [
        ("show info", ["show info"]),
        ("show info;show stat", ["show info", "show stat"]),
        ("show info;", ["show info", ""]),
        ("", [""]),
        (r"set a\;b;c", [r"set a\;b", "c"]),
        (r"a\\;b", [r"a\\", "b"]),
    ],
)
def test_semicolons_separate_commands(line: str, commands: list[str]) -> None:
    assert split_commands(line) == commands


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (" show   stat\t-1 \r", ["show", "stat", "-1"]),
        (r"show\ stat", ["show stat"]),
        (r"a\;b \\c", ["a;b", "\\c"]),
        ('show "a b"', ["show", '"a', 'b"']),
        ("", []),
        ("a\\", ["a"]),
    ],
)
def test_blanks_separate_words(command: str, words: list[str]) -> None:
    assert split_words(command) == words


def test_words_over_the_limit_are_ignored() -> None:
    assert split_words("x " * (WORDS_MAX + 5)) == ["x"] * WORDS_MAX


def test_longest_line_of_words_takes_no_time_that_sessions_notice() -> None:
    start = time.process_time()
    split_words("a " * 8192)
    assert time.process_time() - start < 0.05  # it takes 1 ms, and took 100 ms when it was quadratic


@given(st.text())
def test_noise_is_split_without_loss(line: str) -> None:
    assert ";".join(split_commands(line)) == line
    assert all(
        " " not in word or "\\" in line for command in split_commands(line) for word in split_words(command)
    )
