"""Configurations in the manner of public ones: they import, they load, and nothing is lost without a report."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import pytest
import tomli

import mailproxy
from mailproxy.config import load_stream
from mailproxy.errors import ConfigError
from mailproxy.importers.accept import take_out_refused
from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table, from_plain
from mailproxy.importers.place import Origin, Place
from mailproxy.importers.writer import write
from tests.support.imports import FILES, import_file

files = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


def test_there_are_many() -> None:
    assert len(FILES) >= 30


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables that the files name."""
    for name, value in {
        "LOG_HOST": "192.0.2.9",
        "MAXCONN": "100",
        "LISTEN": "127.0.0.1",
        "MAIL3": "192.0.2.3",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("BACKEND_IP", "SMTP_HOST"):
        monkeypatch.setenv(name, "192.0.2.4")


@files
def test_result_loads(file: Path) -> None:
    result = import_file(file)
    load_stream(BytesIO(result.text.encode()))


@files
def test_result_of_mending_loads(file: Path) -> None:
    load_stream(BytesIO(import_file(file, mend=True).text.encode()))


@files
def test_every_directive_is_translated_or_reported(file: Path) -> None:
    """The set of directives that were read is that of directives translated or reported."""
    result = import_file(file)
    context = result.context
    assert context.read
    assert [f"{place}: {context.read[place]}" for place in context.lost] == []


@files
def test_nothing_had_to_be_taken_out_afterwards(file: Path) -> None:
    """The importer knows what mailproxy refuses. Loading the result is a net below it."""
    assert [str(entry) for entry in import_file(file).entries if "mailproxy refuses" in entry.fact] == []


@files
def test_every_place_exists(file: Path) -> None:
    lines = file.read_text().splitlines()
    for entry in import_file(file).entries:
        for place in entry.places:
            assert place.file == str(file)
            assert 1 <= place.line <= len(lines)
            assert 1 <= place.column <= len(lines[place.line - 1]) + 1, entry


@files
def test_writing_again_gives_the_same_configuration(file: Path) -> None:
    text = import_file(file).text
    again = write(from_plain(tomli.loads(text)))
    try:
        first = load_stream(BytesIO(text.encode()))
    except ConfigError:
        pytest.skip("a part of a configuration")
    assert load_stream(BytesIO(again.encode())) == first


@files
def test_reading_is_repeatable(file: Path) -> None:
    first, second = import_file(file), import_file(file)
    assert (first.text, first.entries) == (second.text, second.entries)


def test_formatted_result_survives(tmp_path: Path) -> None:
    """A person writes the tables otherwise, and the configuration is the same."""
    text = import_file(FILES[0].with_name("mailcow.cfg")).text
    file = tmp_path / "mailproxy.toml"
    file.write_text(text)
    config = mailproxy.load(file)
    mapping = tomli.loads(text)
    reordered = {key: mapping[key] for key in reversed(mapping)}
    file.write_text(write(from_plain(reordered)).replace("\n\n", "\n\n\n"))
    assert mailproxy.load(file) == config


def test_environment_of_the_import_is_not_written() -> None:
    text = import_file(FILES[0].with_name("environment.cfg")).text
    assert os.environ["MAIL3"] not in text
    assert 'address = "${MAIL3}:143"' in text
    assert 'address = "10.30.0.1:143"' in text
    assert 'client = "${IDLE:-31m}"' in text


def test_what_mailproxy_refuses_takes_nothing_else_with_it() -> None:
    """A frontend that is taken out has more faults, which are not those of its section."""
    context = Context("test")
    source = Origin(Place("file", 1, 1))
    frontends = context.draft.table("frontends")
    for name, modes in (("one", ["tls"]), ("two", ["forward"]), ("three", ["tls"])):
        table = Table(place=source.place)
        table.set("protocol", "imap", source)
        table.set("backend", "b", source)
        for mode in modes:
            bind = Table(place=source.place)
            bind.set("address", f"*:{993 if mode == 'tls' else 143}", source)
            bind.set("mode", mode, source)
            table.rows("bind").append(bind)
        route = Table(place=source.place)
        route.set("sni" if mode == "tls" else "port", ["a.example"] if mode == "tls" else [143], source)
        route.set("backend", "b", source)
        table.rows("routes").append(route)
        frontends.keys[name] = table
    server = Table(place=source.place)
    server.set("address", "192.0.2.1:143", source)
    context.draft.table("backends").table("b").rows("servers").append(server)
    text = take_out_refused(context)
    assert list(frontends.keys) == ["two"]
    assert load_stream(BytesIO(text.encode())).frontends["two"].routes
