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
from mailproxy.importers.place import NO_COMMENTS, Comments, Place, Word, variable

DEPTH_MAX = 32  # blocks inside each other
_INCLUDE_DEPTH_MAX = 16

_SPACES = " \t\r\f\v"
_SPACE = re.compile(f"[{_SPACES}]+")
_BARE = re.compile(r"(?:\$\{[^}\n]*\}|\\.|[^\s;{}\\])+", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "'": "'", "\\": "\\"}
_TEMPLATE = re.compile(r"\{\{|\{%|<%")
_ENVIRONMENT = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")


@define
class Directive:
    """A directive, with the ones in its block.

    Attributes:
        words: Its name and arguments.
        block: The directives in its block; None if it has none.
        comments: Its comments that have not been carried over yet.
    """

    words: list[Word]
    block: list[Directive] | None = None
    comments: Comments = field(default=NO_COMMENTS)
    _by_name: dict[str, list[Directive]] | None = field(default=None, init=False, eq=False, repr=False)

    @property
    def name(self) -> str:
        """Its name."""
        return self.words[0].text

    @property
    def place(self) -> Place:
        """Where it begins."""
        return self.words[0].place

    @property
    def arguments(self) -> list[str]:
        """Its arguments as text."""
        return [word.text for word in self.words[1:]]

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


@define
class _Token:
    kind: str  # word, ";", "{", "}", comment, blank (an empty line), end
    word: Word


class _Tokens:
    """The tokens of a text."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file

    def __iter__(self) -> Iterator[_Token]:
        at, line, start = 0, 1, 0
        text = self._text
        while at < len(text):
            char = text[at]
            if char in _SPACES and (space := _SPACE.match(text, at)) is not None:
                at = space.end()
                continue
            if char == "\n":
                if not text[start:at].strip():
                    yield _Token("blank", Word("", Place(self._file, line, at - start + 1)))
                at += 1
                line, start = line + 1, at
                continue
            place = Place(self._file, line, at - start + 1)
            if char in ";{}":
                yield _Token(char, Word(char, place))
                at += 1
            elif char == "#":
                end = text.find("\n", at)
                end = len(text) if end < 0 else end
                yield _Token("comment", Word(text[at + 1 : end].strip(), place))
                at = end
            else:
                end, value = self._quoted(at, place) if char in "\"'" else self._bare(at)
                yield _Token("word", Word(_with_environment(value), place, char in "\"'"))
                line += text.count("\n", at, end)
                start = text.rfind("\n", 0, end) + 1 if "\n" in text[at:end] else start
                at = end
        yield _Token("end", Word("", Place(self._file, line, at - start + 1)))

    def _quoted(self, at: int, place: Place) -> tuple[int, str]:
        quote, position = self._text[at], at + 1
        parts: list[str] = []
        while position < len(self._text):
            char = self._text[position]
            if char == quote:
                return position + 1, "".join(parts)
            if char == "\\" and self._text[position + 1 : position + 2] in _ESCAPES:
                parts.append(_ESCAPES[self._text[position + 1]])
                position += 2
            else:
                parts.append(char)
                position += 1
        raise refusal(place, f"the quote {quote} is not closed")

    def _bare(self, at: int) -> tuple[int, str]:
        match = _BARE.match(self._text, at)
        if match is None:  # a backslash at the end of the file
            return at + 1, self._text[at]
        word = match[0]
        return match.end(), re.sub(r"\\([ ;{}'\"\\#])", r"\1", word) if "\\" in word else word


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
        tokens = list(_Tokens(text, file))
        directives, _ = self._block(tokens, 0, None, 0)
        self._open.pop()
        return directives

    def _block(
        self, tokens: Sequence[_Token], at: int, opened: Place | None, depth: int
    ) -> tuple[list[Directive], int]:
        directives: list[Directive] = []
        words: list[Word] = []
        above: list[str] = []
        if depth > DEPTH_MAX:
            refuse(tokens[at].word.place, f"blocks are nested deeper than {DEPTH_MAX}")
        while True:
            token = tokens[at]
            at += 1
            place = token.word.place
            if token.kind == "word":
                words.append(token.word)
            elif token.kind == "comment":
                if not words:
                    _add_comment(token, directives, above)
            elif token.kind == "blank":
                above = []
            elif token.kind in (";", "{") and not words:
                refuse(place, f"there is a {token.kind} without a directive")
            elif token.kind == ";":
                directives += self._finish(Directive(words, comments=Comments(tuple(above))))
                words, above = [], []
            elif token.kind == "{":
                directive = Directive(words, comments=Comments(tuple(above)))
                words, above = [], []
                directive.block, at = self._block(tokens, at, directive.place, depth + 1)
                directives.append(directive)
            elif words:
                refuse(words[0].place, f"{words[0].text} has no ; at its end")
            elif token.kind == "}":
                if opened is None:
                    refuse(place, "there is a } without a block")
                return directives, at
            else:
                if opened is not None:
                    refuse(opened, "the block is not closed")
                return directives, at

    def _finish(self, directive: Directive) -> list[Directive]:
        if directive.name != "include" or len(directive.words) != 2:
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


def _add_comment(token: _Token, directives: list[Directive], above: list[str]) -> None:
    """Give a comment to the directive that ends in the same line, else to the next one."""
    last = directives[-1] if directives else None
    if (
        last is not None
        and last.words[-1].place.line == token.word.place.line
        and last.place.file == token.word.place.file
        and not above
    ):
        last.comments = Comments(last.comments.above, token.word.text)
    else:
        above.append(token.word.text)
