"""A line of the runtime dialect as commands, and a command as words. Pure.

As in HAProxy's ``cli_parse_request``: semicolons separate commands, blanks separate words, and a backslash
takes the next character as it is. Quotes have no meaning.
"""

from __future__ import annotations

WORDS_MAX = 64
"""Words of a command that count, as in HAProxy (``MAX_CLI_ARGS``). The others are ignored."""


def split_commands(line: str) -> list[str]:
    """Return the commands of a line, without its line end. An empty line is one empty command."""
    commands, start, is_escaped = [], 0, False
    for index, character in enumerate(line):
        if character == ";" and not is_escaped:
            commands.append(line[start:index])
            start = index + 1
        is_escaped = character == "\\" and not is_escaped
    return [*commands, line[start:]]


def split_words(command: str) -> list[str]:
    """Return the words of a command."""
    words: list[str] = []
    word, is_escaped = "", False
    for character in command:
        if is_escaped:
            word, is_escaped = word + character, False
        elif character == "\\":
            is_escaped = True
        elif character in " \t\r":
            if word:
                words.append(word)
            word = ""
        else:
            word += character
    if word:
        words.append(word)
    return words[:WORDS_MAX]
