"""The files that are imported: read within bounds, as text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

from mailproxy.errors import ConfigError, Fault
from mailproxy.importers.place import VARIABLE_END, VARIABLE_START, Place

FILE_MAX = 16 * 2**20  # bytes; a larger file is no configuration
_CONTROL = re.compile("[\\x00-\\x08\\x0e-\\x1f\\x7f]")
FILES_MAX = 1000  # files of one configuration, with those that are included


def refusal(place: Place, fact: str) -> ConfigError:
    """Return the error for a file that cannot be read as its language."""
    return ConfigError([Fault("", fact, line=place.line, column=place.column)], place.file)


def refuse(place: Place, fact: str) -> NoReturn:
    """Raise the error for a file that cannot be read as its language.

    Raises:
        ConfigError: Always.
    """
    raise refusal(place, fact)


def read_text(path: Path) -> str:
    """Return the text of a file. Text that is not UTF-8 is taken for Latin-1, in which every byte is a letter.

    Raises:
        ConfigError: The file cannot be read, is too large, or is no text.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(FILE_MAX + 1)
    except OSError as error:
        raise ConfigError([Fault("", f"cannot be read: {error.strerror}")], str(path)) from None
    except ValueError as error:  # a path with a zero byte
        raise ConfigError([Fault("", f"cannot be read: {error}")], str(path)) from None
    if len(content) > FILE_MAX:
        refuse(Place(str(path), 1, 1), f"is larger than {FILE_MAX // 2**20} MiB, and no configuration")
    return decode(content, str(path))


def decode(content: bytes, name: str) -> str:
    """Return bytes as text, with one kind of line end.

    Raises:
        ConfigError: The bytes are no text.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    text = text.replace("\r\n", "\n")
    if (control := _CONTROL.search(text)) is not None:
        index = control.start()
        place = Place(name, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))
        refuse(place, f"the byte 0x{ord(control[0]):02x} is no text")
    return text.replace(VARIABLE_START, "\ufffd").replace(VARIABLE_END, "\ufffd")


def expand_folders(paths: list[Path], suffix: str | tuple[str, ...]) -> list[Path]:
    """Return the files in the order given, and for a folder its files with a suffix, by name.

    Raises:
        ConfigError: There are no files, or too many.
    """
    files: list[Path] = []
    shown = suffix if isinstance(suffix, str) else " or *".join(suffix)
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.name.endswith(suffix) and file.is_file())
            if not found:
                raise ConfigError([Fault("", f"is a folder without files named *{shown}")], str(path))
            files += found
        else:
            files.append(path)
    if len(files) > FILES_MAX:
        raise ConfigError([Fault("", f"there are more than {FILES_MAX} files")], str(paths[0]))
    return files
