"""Caddyfiles as segments: lines of words, with the segments in their braces, comments, snippets, variables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from attrs import define, field

from mailproxy.importers.context import Context
from mailproxy.importers.files import refusal, refuse
from mailproxy.importers.place import NO_COMMENTS, Comments, Place, Word, variable

DEPTH_MAX = 32  # blocks inside each other
_IMPORTS_MAX = 10_000  # segments that imports of snippets come to

_SPACE = re.compile(r"[ \t\r\f\v]+|\\\n")
_BARE = re.compile(r"(?:\{\$[^}\n]*\}|\{[A-Za-z][^{}\s]*\}|[^\s{}]|\}(?=[^\s])|\{(?=[^\s]))+")
_VARIABLE = re.compile(r"\{\$([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\}|\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")
_HEREDOC = re.compile(r"<<([A-Za-z0-9_-]+)\n")


@define
class Segment:
    """A line of words.

    Attributes:
        words: The words; none for the block of global options.
        block: The segments in its braces; None if it has none.
        comments: Its comments that have not been carried over yet.
    """

    words: list[Word]
    place: Place
    block: list[Segment] | None = None
    comments: Comments = field(default=NO_COMMENTS)

    @property
    def name(self) -> str:
        """The first word; empty if there is none."""
        return self.words[0].text if self.words else ""

    @property
    def arguments(self) -> list[str]:
        """The words behind the first, as text."""
        return [word.text for word in self.words[1:]]

    def take_comments(self) -> Comments:
        """Return the comments at the first call, and none afterwards."""
        comments, self.comments = self.comments, NO_COMMENTS
        return comments


@define
class _Token:
    kind: str  # word, "{", "}", comment, newline, end
    word: Word


def _tokens(text: str, file: str) -> Iterator[_Token]:
    at, line, start = 0, 1, 0
    while at < len(text):
        place = Place(file, line, at - start + 1)
        char = text[at]
        following = text[at + 1 : at + 2]
        end, kind, value = at + 1, "word", char
        if char == "\n":
            kind = "newline"
        elif (space := _SPACE.match(text, at)) is not None:
            end, kind = space.end(), ""
        elif char == "#":
            found = text.find("\n", at)
            end = len(text) if found < 0 else found
            kind, value = "comment", text[at + 1 : end].strip()
        elif char in "{}" and (not following or following.isspace() or following == "#"):
            kind = char
        elif char in '"`':
            end, value = _quoted(text, at, place)
        elif (heredoc := _HEREDOC.match(text, at)) is not None:
            end, value = _heredoc(text, heredoc, place)
        elif (bare := _BARE.match(text, at)) is not None:
            end, value = bare.end(), bare[0]
        if kind:
            yield _Token(kind, Word(_with_variables(value) if kind == "word" else value, place, char in '"`'))
        line += text.count("\n", at, end)
        if "\n" in text[at:end]:
            start = text.rfind("\n", 0, end) + 1
        at = end
    yield _Token("end", Word("", Place(file, line, at - start + 1)))


def _quoted(text: str, at: int, place: Place) -> tuple[int, str]:
    quote, position = text[at], at + 1
    parts: list[str] = []
    while position < len(text):
        if text[position] == quote:
            return position + 1, "".join(parts)
        if quote == '"' and text[position : position + 2] == '\\"':
            position += 1
        parts.append(text[position])
        position += 1
    raise refusal(place, f"the quote {quote} is not closed")


def _heredoc(text: str, heredoc: re.Match[str], place: Place) -> tuple[int, str]:
    end = re.compile(rf"^[ \t]*{re.escape(heredoc[1])}\b", re.MULTILINE).search(text, heredoc.end())
    if end is None:
        refuse(place, f"the text <<{heredoc[1]} is not closed")
    return end.end(), text[heredoc.end() : end.start()]


def _with_variables(text: str) -> str:
    return _VARIABLE.sub(lambda match: variable(match[1] or match[3], match[2]), text)


def parse(text: str, file: str, context: Context) -> list[Segment]:
    """Return the segments of a Caddyfile, with snippets put in.

    Raises:
        ConfigError: A quote or a brace is not closed.
    """
    if "{{" in text or "{%" in text:
        index = min(at for mark in ("{{", "{%") if (at := text.find(mark)) >= 0)
        place = Place(file, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))
        context.report.loss(
            place, "", "this is a template: import what is made of it; its own lines are left out"
        )
        text = re.sub(r"\{\{\s*(?:range|end|if|else|with)\b.*?\}\}|\{%.*?%\}", "", text)
        text = re.sub(
            r"\{\{(.*?)\}\}",
            lambda match: f"template-{re.sub('[^A-Za-z0-9]+', '-', match[1]).strip('-')}",
            text,
        )
    tokens = list(_tokens(text, file))
    segments, _ = _block(tokens, 0, None, 0)
    snippets = {each.name[1:-1]: each for each in segments if re.fullmatch(r"\([^)]+\)", each.name)}
    rest = [each for each in segments if each.name[1:-1] not in snippets or not each.name.startswith("(")]
    return _Imports(snippets, context).put_in(rest, 0)


def _block(tokens: Sequence[_Token], at: int, opened: Place | None, depth: int) -> tuple[list[Segment], int]:
    segments: list[Segment] = []
    words: list[Word] = []
    above: list[str] = []
    blanks = 0
    if depth > DEPTH_MAX:
        refuse(tokens[at].word.place, f"blocks are nested deeper than {DEPTH_MAX}")
    while True:
        token = tokens[at]
        at += 1
        if token.kind == "word":
            words.append(token.word)
            blanks = 0
        elif token.kind == "comment":
            blanks = 0
            if words:
                segments.append(
                    Segment(words, words[0].place, comments=Comments(tuple(above), token.word.text))
                )
                words, above = [], []
            elif (
                segments
                and segments[-1].words
                and segments[-1].words[-1].place.line == token.word.place.line
                and not above
            ):
                segments[-1].comments = Comments(segments[-1].comments.above, token.word.text)
            else:
                above.append(token.word.text)
        elif token.kind == "{":
            segment = Segment(
                words, words[0].place if words else token.word.place, comments=Comments(tuple(above))
            )
            words, above = [], []
            segment.block, at = _block(tokens, at, token.word.place, depth + 1)
            segments.append(segment)
        else:
            if words:
                segments.append(Segment(words, words[0].place, comments=Comments(tuple(above))))
                words, above = [], []
            if token.kind == "newline":
                blanks += 1
                above = above if blanks < 2 else []
            elif token.kind == "}":
                if opened is None:
                    refuse(token.word.place, "there is a } without a block")
                return segments, at
            else:
                if opened is not None:
                    refuse(opened, "the block is not closed")
                return segments, at


class _Imports:
    """Puts snippets in where they are imported."""

    def __init__(self, snippets: Mapping[str, Segment], context: Context) -> None:
        self._snippets = snippets
        self._context = context
        self._count = 0

    def put_in(self, segments: Sequence[Segment], depth: int) -> list[Segment]:
        whole: list[Segment] = []
        for segment in segments:
            self._count += depth > 0
            if self._count > _IMPORTS_MAX or depth > DEPTH_MAX:
                refuse(segment.place, "snippets import each other without end")
            if segment.name == "import" and segment.arguments[:1]:
                whole += self._imported(segment, depth)
                continue
            if segment.block is not None:
                segment.block = self.put_in(segment.block, depth)
            whole.append(segment)
        return whole

    def _imported(self, segment: Segment, depth: int) -> list[Segment]:
        snippet = self._snippets.get(segment.arguments[0])
        self._context.register(segment.place, "import")
        if snippet is None:
            self._context.report.loss(
                segment.place, "import", f"{segment.arguments[0]} is no snippet of this file: left out"
            )
            return []
        self._context.settle(segment.place)
        arguments = segment.arguments[1:]
        return self.put_in([_with_arguments(each, arguments) for each in snippet.block or ()], depth + 1)


def _with_arguments(segment: Segment, arguments: Sequence[str]) -> Segment:
    """Return a copy of a segment of a snippet with ``{args[0]}`` or ``{args.0}`` replaced."""

    def replace(match: re.Match[str]) -> str:
        index = int(match[1])
        return arguments[index] if index < len(arguments) else ""

    words = [
        Word(re.sub(r"\{args[.\[](\d{1,3})\]?\}", replace, word.text), word.place, word.is_quoted)
        for word in segment.words
    ]
    block = None if segment.block is None else [_with_arguments(each, arguments) for each in segment.block]
    return Segment(words, segment.place, block, segment.comments)
