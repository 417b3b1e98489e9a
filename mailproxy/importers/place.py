"""Places in the files that are imported, and the words and comments at them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from attrs import define, field, frozen

# Around the name of a variable of the environment in a word. No text has them: files.read_text replaces them.
VARIABLE_START, VARIABLE_END = "\ue000", "\ue001"


class Place(NamedTuple):
    """A line and column of a file, both from 1.

    A tuple, since a large file has 100,000 places, and each is looked up in several sets.
    """

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@frozen
class Word:
    """One word of a file, without its quotes and escapes.

    Attributes:
        text: The word. A variable of the environment that is not known is between ``VARIABLE_START`` and
            ``VARIABLE_END``.
        place: Where it begins.
        is_quoted: Whether any part of it was in quotes.
    """

    text: str
    place: Place
    is_quoted: bool = field(default=False, eq=False)

    def __str__(self) -> str:
        return self.text


class Source(Protocol):
    """What a value is imported from."""

    @property
    def place(self) -> Place:
        """Where it is."""

    def take_comments(self) -> Comments:
        """Return its comments at the first call, and none afterwards."""


@frozen
class Comments:
    """The comments of a line or a key, without their marks.

    Attributes:
        above: Comment lines directly above.
        beside: The comment at the end of the same line; empty for none.
    """

    above: tuple[str, ...] = ()
    beside: str = ""


NO_COMMENTS = Comments()


@define
class Origin:
    """A place, with the comments that have not been carried over yet."""

    place: Place
    comments: Comments = NO_COMMENTS

    def take_comments(self) -> Comments:
        """Return the comments at the first call, and none afterwards."""
        comments, self.comments = self.comments, NO_COMMENTS
        return comments


def variable(name: str, default: str | None = None) -> str:
    """Return the text of a variable of the environment in a word."""
    inside = name if default is None else f"{name}:-{default}"
    return f"{VARIABLE_START}{inside}{VARIABLE_END}"


def has_variable(text: str) -> bool:
    """Whether a word depends on the environment."""
    return VARIABLE_START in text


def show(text: str) -> str:
    """Return a word for a message, with variables as ``${NAME}``, shortened to 60 characters."""
    if len(text) <= 60 and text.isprintable():
        return text
    text = text.replace(VARIABLE_START, "${").replace(VARIABLE_END, "}")
    if not text.isprintable():
        text = "".join(each if each.isprintable() else "?" for each in text)
    return text if len(text) <= 60 else f"{text[:57]}..."
