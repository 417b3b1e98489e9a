"""HAProxy's files as sections of lines: several files, conditions, variables, comments, templates."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from attrs import define, field

from mailproxy.importers.context import Context
from mailproxy.importers.haproxy.conditions import Conditions
from mailproxy.importers.haproxy.lexer import Line, logical_lines, split_line
from mailproxy.importers.place import Comments, Place, Word, has_variable

PROXIES = ("frontend", "backend", "listen")
SECTIONS = (
    "global", "defaults", *PROXIES, "peers", "userlist", "resolvers", "cache", "program", "ring", "mailers", "log-forward",
    "http-errors", "fcgi-app", "crt-store", "traces", "log-profile", "acme",
)  # fmt: skip

_TEMPLATE = re.compile(
    r"\{\{.*\}\}|\{%.*%\}|<%.*%>|\{#.*#\}|\$\{[a-z_]+[.(|][^}]*\}|@@\w+@@|%%\w+%%|__[A-Z][A-Z_]+__"
)
_TEMPLATE_KIND = "template"  # a section whose name is made by a template; it is left out
_IS_TEMPLATE = "this is a template: the line is left out; import what is made of it"
_ASSIGNMENTS = ("setenv", "presetenv")


@define
class Section:
    """A section of the files.

    Attributes:
        kind: Its keyword.
        name: Its name; empty for none.
        head: The line with the keyword.
        lines: The lines in it.
    """

    kind: str
    name: str
    head: Line
    lines: list[Line] = field(factory=list)


class Reader:
    """Reads files in order into sections. The environment of one is that of the next."""

    def __init__(self, context: Context) -> None:
        self.sections: list[Section] = []
        self.folder = Path()
        self._context = context
        self._environment: dict[str, str] = {}
        self._above: list[str] = []
        self._head_comments: tuple[str, ...] = ()

    def read(self, text: str, file: str) -> None:
        """Read the text of a file.

        Raises:
            ConfigError: It cannot be read.
        """
        conditions = Conditions(self._context, self._environment)
        self._above = []
        for number, raw, joined in logical_lines(text):
            for each in joined:
                self._context.report.note(
                    Place(file, each, 1),
                    "\\",
                    "a backslash at the end of the line, which HAProxy refuses: joined with the next line",
                )
            self._read_line(raw, file, number, conditions)
        if text and not text.endswith("\n"):
            place = Place(file, text.count("\n") + 1, 1)
            self._context.report.note(
                place, "", "the last line has no end, so HAProxy refuses the file: read all the same"
            )
        conditions.check_closed()

    def _read_line(self, raw: str, file: str, number: int, conditions: Conditions) -> None:
        if _TEMPLATE.search(raw) and not raw.lstrip().startswith("#"):
            place = Place(file, number, 1)
            self._context.report.loss(place, "", _IS_TEMPLATE)
            keyword = next(iter(raw.split()), "")
            if keyword in SECTIONS:
                self.sections.append(Section(_TEMPLATE_KIND, "", Line([Word(keyword, place)])))
            self._above = []
            return
        words, comment = split_line(raw, file, number, self._environment)
        if not words:
            self._comment(raw, comment)
            return
        line = Line(words, Comments(tuple(self._above), comment))
        self._above = []
        if words[0].text.startswith("."):
            conditions.handle(line)
        elif conditions.is_active:
            self._add(line)
        else:
            fact = "the line is in a branch of .if that does not hold: left out"
            self._context.report.note(line.place, "", fact)

    def _comment(self, raw: str, comment: str) -> None:
        if comment:
            self._above.append(comment)
        elif "#" not in raw:
            if self._above and not self.sections and not self._head_comments:
                self._head_comments = tuple(self._above)
                self._context.draft.comments = Comments(self._head_comments)
            self._above = []

    def _add(self, line: Line) -> None:
        keyword = line.words[0].text
        if keyword in SECTIONS:
            name = line.words[1].text if len(line.words) > 1 else ""
            self.sections.append(Section(keyword, name, line))
            return
        self._context.register(line.place, _name(line))
        if not self.sections:
            self._context.report.loss(
                line.place, keyword, "is before every section, which HAProxy refuses: it is left out"
            )
            return
        section = self.sections[-1]
        if section.kind == _TEMPLATE_KIND:
            self._context.report.loss(line.place, "", _IS_TEMPLATE)
            return
        if section.kind == "global" and keyword in _ASSIGNMENTS and len(line.words) > 2:
            self._assign(line)
        elif section.kind == "global" and keyword in ("unsetenv", "resetenv"):
            for word in line.words[1:]:
                self._environment.pop(word.text, None)
            self._context.settle(line.place)
        else:
            section.lines.append(line)

    def _assign(self, line: Line) -> None:
        name, value = line.words[1].text, line.words[2].text
        if line.words[0].text == "setenv" or name not in os.environ:
            self._environment[name] = value
        self._context.settle(line.place)


def _name(line: Line) -> str:
    """Return the name of a directive for messages: its keyword, with the word that tells what it is."""
    keyword = line.words[0].text
    if (
        keyword in ("timeout", "option", "no", "stats", "tcp-check", "tcp-request", "http-check", "stick")
        and len(line.words) > 1
    ):
        second = line.words[1].text
        third = (
            f" {line.words[2].text}"
            if len(line.words) > 2 and (keyword == "no" or (keyword, second) in _THREE)
            else ""
        )
        return f"{keyword} {second}{third}"
    return keyword


_THREE = {("tcp-request", "connection"), ("tcp-request", "content"), ("tcp-request", "session")}


def read_files(texts: Iterable[tuple[str, str]], context: Context) -> list[Section]:
    """Read several files as one configuration.

    Args:
        texts: Name and text of each file, in order.
        context: Gets what is to report.

    Raises:
        ConfigError: One of them cannot be read.
    """
    reader = Reader(context)
    for name, text in texts:
        context.report.files.append(name)
        reader.read(text, name)
    return reader.sections


def path_of(text: str, base: str) -> str:
    """Return a path below ``ca-base`` or ``crt-base``, unless it is absolute."""
    if text.startswith(("/", "@")) or not base or has_variable(text[:1]):
        return text
    return f"{base.rstrip('/')}/{text}"
