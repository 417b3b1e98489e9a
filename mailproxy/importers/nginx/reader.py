"""nginx's files as a tree of directives: words, quotes, blocks, comments, includes."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import define, field

from mailproxy.errors import ConfigError
from mailproxy.importers.context import Context
from mailproxy.importers.files import FILES_MAX, read_text, refusal, refuse
from mailproxy.importers.place import NO_COMMENTS, Comments, Place, variable

DEPTH_MAX = 32  # blocks inside each other
_INCLUDE_DEPTH_MAX = 16

# Possessive quantifiers (*+): a quote that is not closed must not be searched for again and again.
_TOKEN = re.compile(
    r"""[ \t\r\f\v]*+(?:
        (?P<newline>\n)
        | (?P<mark>[;{}])
        | \#(?P<comment>[^\n]*)
        | (?P<quoted>"[^"\\]*+(?:\\.[^"\\]*+)*+" | '[^'\\]*+(?:\\.[^'\\]*+)*+')
        | (?P<unclosed>["'])
        | (?P<word>(?:[^\s;{}\\$]++|\$\{[^}\n]*\}|\\.|\$)+)
        | (?P<end>\Z)
        | (?P<other>.)  # a backslash at the end of the file
    )""",
    re.DOTALL | re.VERBOSE,
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "'": "'", "\\": "\\"}
_ESCAPE_IN_QUOTES = re.compile(r"""\\([nrt"'\\])""")
_ESCAPE = re.compile(r"""\\([ ;{}'"\\#])""")
_TEMPLATE = re.compile(r"\{\{|\{%|<%")
_ENVIRONMENT = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")


@define
class Directive:
    """A directive, with the ones in its block.

    Attributes:
        name: Its name.
        arguments: Its arguments as text.
        place: Where it begins.
        last_line: The line of its last argument.
        block: The directives in its block; None if it has none.
        comments: Its comments that have not been carried over yet.
    """

    name: str
    arguments: Sequence[str]
    place: Place
    last_line: int
    block: list[Directive] | None = None
    comments: Comments = field(default=NO_COMMENTS)
    _by_name: dict[str, list[Directive]] | None = field(default=None, init=False, eq=False, repr=False)

    def take_comments(self) -> Comments:
        """Return the comments at the first call, and none afterwards."""
        comments, self.comments = self.comments, NO_COMMENTS
        return comments

    @property
    def by_name(self) -> Mapping[str, list[Directive]]:
        """The directives in its block by name."""
        if self._by_name is None:
            self._by_name = {}
            for each in self.block or ():
                self._by_name.setdefault(each.name, []).append(each)
        return self._by_name

    def children(self, *names: str) -> list[Directive]:
        """Return the directives with one of these names in its block."""
        if len(names) == 1:
            return list(self.by_name.get(names[0], ()))
        if self.by_name.keys().isdisjoint(names):
            return []
        return [each for each in self.block or () if each.name in names]


_Token = tuple[str, str, int, int]  # the kind, the text, the line, and the column


def _tokens(text: str, file: str) -> Iterator[_Token]:
    """Yield the tokens of a text: ``word``, ``;``, ``{``, ``}``, ``comment``, ``blank`` for an empty line, ``end``."""
    line, start, is_blank = 1, 0, True
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        at, value = match.start(kind), match[kind]
        if kind == "newline":
            if is_blank:
                yield "blank", "", line, at - start + 1
            line, start, is_blank = line + 1, at + 1, True
            continue
        is_blank = False
        if kind == "mark":
            yield value, value, line, at - start + 1
        elif kind == "comment":
            yield kind, value.strip(), line, at - start
        elif kind == "end":
            yield kind, "", line, at - start + 1
        elif kind == "unclosed":
            raise refusal(Place(file, line, at - start + 1), f"the quote {value} is not closed")
        else:
            yield "word", _with_environment(_without_escapes(value, kind)), line, at - start + 1
            if "\n" in value:
                line += value.count("\n")
                start = at + value.rindex("\n") + 1


def _without_escapes(word: str, kind: str) -> str:
    """Return what a word means, without its quotes and backslashes."""
    if kind == "quoted":
        inside = word[1:-1]
        return _ESCAPE_IN_QUOTES.sub(lambda match: _ESCAPES[match[1]], inside) if "\\" in inside else inside
    return _ESCAPE.sub(r"\1", word) if "\\" in word else word


def _with_environment(text: str) -> str:
    """Return a word with variables that envsubst would replace, such as ``${BACKEND_IP}``, as variables."""
    return _ENVIRONMENT.sub(lambda match: variable(match[1]), text) if "$" in text else text


class Reader:
    """Reads files into trees, with the files that they include."""

    def __init__(self, context: Context, folder: Path) -> None:
        self._context = context
        self._folder = folder
        self._open: list[Path] = []
        self._count = 0

    def read(self, text: str, file: str) -> list[Directive]:
        """Return the directives of a text.

        Raises:
            ConfigError: A quote or block is not closed, or files include each other.
        """
        self._context.report.files.append(file)
        self._open.append(Path(file).absolute())
        if (template := _TEMPLATE.search(text)) is not None:
            line = text.count("\n", 0, template.start()) + 1
            self._context.report.loss(
                Place(file, line, template.start() - text.rfind("\n", 0, template.start())),
                "", "this is a template: import what is made of it; its own lines are left out",
            )  # fmt: skip
            text = re.sub(r"\{%.*?%\}|<%.*?%>|\{#.*?#\}", "", text)
            text = re.sub(
                r"\{\{\s*([^{}\n]*?)\s*\}\}",
                lambda match: f"template-{re.sub('[^A-Za-z0-9]+', '-', match[1])}",
                text,
            )
        directives = self._block(_tokens(text, file), file, None, 0)
        self._open.pop()
        return directives

    def _block(
        self, tokens: Iterator[_Token], file: str, opened: Place | None, depth: int
    ) -> list[Directive]:
        """Return the directives up to the end of a block, or of the file."""
        directives: list[Directive] = []
        words: list[str] = []
        above: list[str] = []
        place, last_line = Place(file, 1, 1), 1
        if depth > DEPTH_MAX:
            refuse(opened or place, f"blocks are nested deeper than {DEPTH_MAX}")
        for kind, text, line, column in tokens:
            if kind == "word":
                if not words:
                    place = Place(file, line, column)
                words.append(text)
                last_line = line
            elif kind == "comment":
                if not words:
                    _add_comment(text, file, line, directives, above)
            elif kind == "blank":
                above = []
            elif kind in (";", "{"):
                if not words:
                    refuse(Place(file, line, column), f"there is a {kind} without a directive")
                comments = Comments(tuple(above)) if above else NO_COMMENTS
                directive = Directive(words[0], words[1:], place, last_line, comments=comments)
                words, above = [], []
                if kind == "{":
                    directive.block = self._block(tokens, file, place, depth + 1)
                    directives.append(directive)
                else:
                    directives += self._finish(directive)
            elif words:
                refuse(place, f"{words[0]} has no ; at its end")
            elif kind == "}":
                if opened is None:
                    refuse(Place(file, line, column), "there is a } without a block")
                break
            elif opened is not None:
                refuse(opened, "the block is not closed")
            else:
                break
        return directives

    def _finish(self, directive: Directive) -> list[Directive]:
        if directive.name != "include" or len(directive.arguments) != 1:
            return [directive]
        self._context.register(directive.place, "include")
        self._context.settle(directive.place)
        pattern = directive.arguments[0]
        if pattern.endswith("mime.types"):
            return []
        whole = pattern if pattern.startswith("/") else str(self._folder / pattern)
        files = sorted(map(Path, glob.glob(whole)))[:FILES_MAX]  # noqa: PTH207 - the pattern may be absolute
        if not files and not re.search(r"[*?\[]", pattern):
            self._context.report.loss(directive.place, "include", f"{pattern} cannot be read here: left out")
        included: list[Directive] = []
        for file in files:
            included += self._include(file, directive)
        return included

    def _include(self, file: Path, directive: Directive) -> list[Directive]:
        self._count += 1
        if file.absolute() in self._open:
            refuse(directive.place, f"{file} includes itself")
        if len(self._open) > _INCLUDE_DEPTH_MAX or self._count > FILES_MAX:
            refuse(
                directive.place,
                f"{file}: files include each other deeper than {_INCLUDE_DEPTH_MAX}, or too many",
            )
        try:
            text = read_text(file)
        except ConfigError as error:
            self._context.report.loss(
                directive.place, "include", f"{error.faults[0].fact}: {file} is left out"
            )
            return []
        return self.read(text, str(file))


def _add_comment(text: str, file: str, line: int, directives: list[Directive], above: list[str]) -> None:
    """Give a comment to the directive that ends in the same line, else to the next one."""
    last = directives[-1] if directives else None
    if last is not None and last.last_line == line and last.place.file == file and not above:
        last.comments = Comments(last.comments.above, text)
    else:
        above.append(text)
