"""Import files: read, translate, leave out, write."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from mailproxy.importers.accept import take_out_refused
from mailproxy.importers.complete import complete
from mailproxy.importers.context import Context
from mailproxy.importers.draft import Path as DraftPath
from mailproxy.importers.draft import Value
from mailproxy.importers.files import expand_folders, read_text
from mailproxy.importers.inherit import share
from mailproxy.importers.place import Place
from mailproxy.importers.report import Entry
from mailproxy.importers.traps import find_traps
from mailproxy.importers.trim import trim

Convert = Callable[[Iterable[tuple[str, str]], Context], None]


@frozen
class Program:
    """A program whose files are imported.

    Attributes:
        title: Its name.
        suffix: How the names of its files end, in a folder; one or several.
        convert: Fills a draft.
    """

    title: str
    suffix: str | tuple[str, ...]
    convert: Convert


# Each importer is loaded late: all four take a tenth of a second.
def _convert_haproxy(texts: Iterable[tuple[str, str]], context: Context) -> None:
    from mailproxy.importers.haproxy.convert import convert

    convert(texts, context)


def _convert_nginx(texts: Iterable[tuple[str, str]], context: Context) -> None:
    from mailproxy.importers.nginx.convert import convert

    convert(texts, context)


def _convert_caddy(texts: Iterable[tuple[str, str]], context: Context) -> None:
    from mailproxy.importers.caddy.convert import convert

    convert(texts, context)


def _convert_traefik(texts: Iterable[tuple[str, str]], context: Context) -> None:
    from mailproxy.importers.traefik.convert import convert

    convert(texts, context)


PROGRAMS: Mapping[str, Program] = {
    "haproxy": Program("HAProxy", ".cfg", _convert_haproxy),
    "nginx": Program("nginx", ".conf", _convert_nginx),
    "caddy": Program("Caddy", "Caddyfile", _convert_caddy),
    "traefik": Program("Traefik", (".toml", ".yml", ".yaml"), _convert_traefik),
}
_TO_FRAGMENT = "there is no frontend for mail in these files, so what was written is part of a configuration"


@frozen
class Result:
    """What an import has come to.

    Attributes:
        text: The configuration as TOML.
        entries: The report.
        sources: Name and text of each file.
        context: What was read, for tests.
    """

    text: str
    entries: Sequence[Entry]
    sources: Sequence[tuple[str, str]]
    context: Context

    @property
    def values(self) -> Iterator[tuple[DraftPath, Value]]:
        """What was written, with the places that it comes from."""
        return self.context.draft.values()

    @property
    def has_losses(self) -> bool:
        """Whether anything is not as in the source."""
        return any(entry.kind == "loss" for entry in self.entries)


def import_files(program: str, paths: Sequence[Path], *, mend: bool = False) -> Result:
    """Import the configuration of another program.

    Args:
        program: One of ``PROGRAMS``.
        paths: Its files, in the order in which it reads them. A folder means the files in it, by name.
        mend: Whether values that are traps for mail are left to mailproxy's defaults.

    Raises:
        ConfigError: A file cannot be read.
    """
    files = expand_folders(list(paths), PROGRAMS[program].suffix)
    return import_texts(program, [(str(file), read_text(file)) for file in files], mend=mend)


def import_texts(program: str, texts: Sequence[tuple[str, str]], *, mend: bool = False) -> Result:
    """Import texts, each with its name, as ``import_files`` does files."""
    with _without_collection():
        return _import_texts(program, texts, mend=mend)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Suspend the collection of reference cycles: what an import makes, it needs to its end.

    Collections took a quarter of the time for 10,000 server blocks of nginx.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        # Both together move every object to the oldest generation. Otherwise the next collection visits them all.
        gc.freeze()
        gc.unfreeze()
        gc.enable()


def _import_texts(program: str, texts: Sequence[tuple[str, str]], *, mend: bool) -> Result:
    context = Context(PROGRAMS[program].title)
    PROGRAMS[program].convert(texts, context)
    context.report_unaccounted()
    complete(context)
    find_traps(context, mend=mend)
    share(context)
    trim(context.draft)
    text = take_out_refused(context)
    if not context.draft.table("frontends").keys and texts:
        _report_fragment(context, texts[0][0])
    return Result(text, context.report.entries(), texts, context)


def _report_fragment(context: Context, file: str) -> None:
    context.report.note(Place(file, 1, 1), "", _TO_FRAGMENT)
