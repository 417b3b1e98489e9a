"""HAProxy's conditions between lines: ``.if``, ``.elif``, ``.else``, ``.endif``, and ``.notice`` and others."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from attrs import define

from mailproxy.importers.context import Context
from mailproxy.importers.files import refuse
from mailproxy.importers.haproxy.lexer import Line
from mailproxy.importers.place import Place

DEPTH_MAX = 16  # HAProxy's

_CALL = re.compile(r"(!?)\s*([a-z_]+)\(([^)]*)\)\s*")
_MESSAGES = (".notice", ".warning", ".diag")


@define
class _Block:
    place: Place
    is_active: bool
    was_active: bool
    is_last: bool = False


class Conditions:
    """The conditions that are open at a line.

    Functions that ask for HAProxy's version and features hold, as for a recent HAProxy with all of them.
    """

    def __init__(self, context: Context, environment: Mapping[str, str]) -> None:
        self._context = context
        self._environment = environment
        self._blocks: list[_Block] = []

    @property
    def is_active(self) -> bool:
        """Whether the next line counts."""
        return all(block.is_active for block in self._blocks)

    def handle(self, line: Line) -> None:
        """Take a line that begins with a dot."""
        keyword, words = line.words[0].text, " ".join(word.text for word in line.words[1:])
        self._context.register(line.place, keyword)
        self._context.settle(line.place)
        if keyword == ".if":
            if len(self._blocks) >= DEPTH_MAX:
                refuse(line.place, f".if is nested deeper than {DEPTH_MAX}")
            holds = self._holds(words, line)
            self._blocks.append(_Block(line.place, holds, holds))
        elif keyword in (".elif", ".else", ".endif"):
            self._continue(keyword, words, line)
        elif keyword == ".alert" and self.is_active:
            self._context.report.note(line.place, keyword, f"HAProxy stops here: {words}: read all the same")
        elif keyword not in (".alert", *_MESSAGES):
            self._context.report.loss(line.place, keyword, "is no word of HAProxy: left out")

    def _continue(self, keyword: str, words: str, line: Line) -> None:
        if not self._blocks:
            self._context.report.loss(
                line.place, keyword, "has no .if before it, which HAProxy refuses: left out"
            )
            return
        block = self._blocks[-1]
        if keyword == ".endif":
            self._blocks.pop()
        else:
            holds = keyword == ".else" or self._holds(words, line)
            block.is_active = holds and not block.was_active
            block.was_active = block.was_active or holds

    def check_closed(self) -> None:
        """Report conditions that are open at the end of a file."""
        for block in self._blocks:
            self._context.report.note(
                block.place, ".if", "has no .endif, which HAProxy refuses: read up to the end of the file"
            )

    def _holds(self, text: str, line: Line) -> bool:
        return any(
            all(self._term(term.strip(), line) for term in part.split("&&")) for part in text.split("||")
        )

    def _term(self, text: str, line: Line) -> bool:
        bare = text.lstrip("! ")
        negated = text.count("!", 0, len(text) - len(bare)) % 2 == 1
        match = _CALL.fullmatch(bare)
        if match is None:
            return (bare not in ("", "0", "false")) != negated
        name, arguments = match[2], [each.strip().strip("\"'") for each in match[3].split(",")]
        if name == "defined":
            holds = arguments[0] in self._environment or arguments[0] in os.environ
            self._context.report.note(
                line.place,
                line.words[0].text,
                f"{arguments[0]} is {'' if holds else 'not '}defined here: the import holds for that",
            )
        elif name in ("streq", "strneq"):
            holds = (len(set(arguments[:2])) == 1) == (name == "streq")
        elif name == "version_before":
            holds = False
        elif name in (
            "version_atleast",
            "feature",
            "openssl_version_atleast",
            "enabled",
            "awslc_api_atleast",
        ):
            holds = True
        else:
            holds = False
            self._context.report.loss(
                line.place, line.words[0].text, f"{name}() is not known: taken as false"
            )
        return holds != negated
