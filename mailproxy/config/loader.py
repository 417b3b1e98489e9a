"""Load a configuration: TOML and environment become frozen values, or an error with every fault."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from mailproxy.config import model
from mailproxy.config.build import build, build_admin
from mailproxy.config.converter import make_converter
from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.environment import expand
from mailproxy.config.fields import keys_of
from mailproxy.config.layers import Table
from mailproxy.config.lint.unknown_keys import describe_unknown_key
from mailproxy.config.network_files import include_networks
from mailproxy.config.path import ROOT_PATH, ConfigPath
from mailproxy.config.source.source_map import SourceMap
from mailproxy.config.source.syntax import SyntaxFault, decode, parse
from mailproxy.config.validate import check_named, check_table
from mailproxy.config.values import value_type_of
from mailproxy.errors import ConfigError, Fault

_FILE_MAX = 16 * 2**20  # bytes; a larger file is no configuration, and is not read into memory
_LAYERED = {"frontend": model.Frontend, "bind": model.Bind, "backend": model.Backend, "server": model.Server}


def load(path: str | os.PathLike[str]) -> model.Config:
    """Read a configuration file. Of the files that it names, only lists of networks are opened.

    Raises:
        ConfigError: The file cannot be read, or has faults; the error has all of them.
    """
    return load_bytes(read_bytes(path), folder=Path(path).parent, source=str(path))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Read the text of a configuration file, which `load_bytes` takes.

    Raises:
        ConfigError: The file cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            return stream.read(_FILE_MAX + 1)
    except OSError as error:
        raise ConfigError([Fault("", f"cannot be read: {error.strerror}")], str(path)) from None
    except ValueError as error:  # a path with a zero byte
        raise ConfigError([Fault("", f"cannot be read: {error}")], str(path)) from None


def load_stream(stream: IO[bytes], *, folder: str | os.PathLike[str] = ".", source: str = "") -> model.Config:
    """Read a configuration from an open file, such as standard input.

    Args:
        stream: The open file. It is read to its end, and not closed.
        folder: The folder at which relative paths begin.
        source: The name of the file, with which the error's lines begin.

    Raises:
        ConfigError: The text has faults; the error has all of them.
        OSError: The stream cannot be read.
    """
    return load_bytes(stream.read(_FILE_MAX + 1), folder=folder, source=source)


def load_bytes(data: bytes, *, folder: str | os.PathLike[str] = ".", source: str = "") -> model.Config:
    """Make a configuration of the text of a file. Arguments as for `load_stream`.

    Raises:
        ConfigError: The text has faults; the error has all of them.
    """
    text, tables = _parse(data, source)
    return _read(tables, folder, SourceMap(source, tables, text))


def load_admin(path: str | os.PathLike[str]) -> model.Admin:
    """Read the ``admin`` table of a configuration file, whatever faults its other tables have.

    Raises:
        ConfigError: The file cannot be read, or the table has faults.
    """
    text, tables = _parse(read_bytes(path), str(path))
    source_map, diagnostics = SourceMap(str(path), tables, text), Diagnostics()
    mapping = expand({"admin": tables.get("admin", {})}, ROOT_PATH, diagnostics)
    table = check_table(model.Admin, mapping["admin"], ROOT_PATH / "admin", diagnostics)
    admin = build_admin(table, diagnostics, make_converter(Path(path).parent.absolute()))
    if admin is None or diagnostics.faults:
        raise source_map.error(diagnostics.faults)
    return admin


def _parse(data: bytes, source: str) -> tuple[str, Table]:
    """Return the text of a configuration, and its tables."""
    if len(data) > _FILE_MAX:
        raise ConfigError([Fault("", f"is larger than {_FILE_MAX} bytes")], source)
    try:
        text = decode(data)
        return text, parse(text)
    except SyntaxFault as error:
        raise ConfigError([error.fault], source) from None
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError([Fault("", f"cannot be read: {error}")], source) from None
    except RecursionError:
        raise ConfigError([Fault("", "is nested too deeply")], source) from None


def from_mapping(
    mapping: Mapping[str, Any], *, folder: str | os.PathLike[str] = ".", source: str = ""
) -> model.Config:
    """Make a configuration of the tables that a TOML file would have.

    Args:
        mapping: The tables.
        folder: The folder at which relative paths begin.
        source: A name with which the error's lines begin.

    Raises:
        ConfigError: The tables have faults; the error has all of them.
    """
    return _read(mapping, folder, SourceMap(source, mapping))


def _read(mapping: Mapping[str, Any], folder: str | os.PathLike[str], source_map: SourceMap) -> model.Config:
    diagnostics = Diagnostics()
    try:
        expanded = include_networks(expand(mapping, ROOT_PATH, diagnostics), Path(folder), diagnostics)
        tables = _validate(expanded, diagnostics)
    except RecursionError:
        raise ConfigError([Fault("", "is nested too deeply")], source_map.file) from None
    try:
        converter = make_converter(Path(folder).absolute())
    except OSError as error:
        fact = f"the current folder is gone: {error.strerror}"
        raise ConfigError([Fault("", fact)], source_map.file) from None
    config = build(tables, diagnostics, converter, source_map)
    if config is None:
        raise source_map.error(diagnostics.faults)
    return config


def _validate(mapping: Table, diagnostics: Diagnostics) -> Table:
    """Validate every table of the file; return them without their invalid keys."""
    sections: dict[str, Callable[[object, ConfigPath], object]] = {
        "process": lambda value, path: check_table(model.Process, value, path, diagnostics),
        "log": lambda value, path: check_table(model.Log, value, path, diagnostics),
        "tracing": lambda value, path: check_table(model.Tracing, value, path, diagnostics),
        "admin": lambda value, path: check_table(model.Admin, value, path, diagnostics),
        "metrics": lambda value, path: check_table(model.Metrics, value, path, diagnostics),
        "acme": lambda value, path: _validate_named(model.Acme, value, path, diagnostics),
        "defaults": lambda value, path: _validate_layers(value, path, diagnostics, without=("name",)),
        "profiles": lambda value, path: {
            name: _validate_layers(layers, path / name, diagnostics, without=("name", "profile"))
            for name, layers in check_named(value, path, diagnostics).items()
        },
        "frontends": lambda value, path: _validate_named(model.Frontend, value, path, diagnostics),
        "backends": lambda value, path: _validate_named(model.Backend, value, path, diagnostics),
    }
    for name in mapping:
        if name not in sections:
            diagnostics.add(ROOT_PATH / name, describe_unknown_key(name, sections))
    return {name: validate(mapping.get(name, {}), ROOT_PATH / name) for name, validate in sections.items()}


def _validate_layers(
    value: object, path: ConfigPath, diagnostics: Diagnostics, *, without: tuple[str, ...]
) -> Table:
    """Validate the tables of ``[defaults]`` or of one profile."""
    layers = check_named(value, path, diagnostics)
    for name in layers:
        if name not in _LAYERED:
            diagnostics.add(path / name, describe_unknown_key(name, _LAYERED))
    return {
        name: check_table(_LAYERED[name], table, path / name, diagnostics, without=without)
        for name, table in layers.items()
        if name in _LAYERED
    }


def _validate_named(owner: type, value: object, path: ConfigPath, diagnostics: Diagnostics) -> Table:
    """Validate all frontends or all backends, and their names."""
    name_type = value_type_of(keys_of(owner)["name"].annotation)
    assert name_type is not None  # noqa: S101 - names are single values
    valid = {}
    for name, table in check_named(value, path, diagnostics, example=f", [{path}.NAME]").items():
        try:
            name_type.structure(name)
        except ValueError as error:
            diagnostics.drop(path / name, str(error))
            continue
        valid[name] = check_table(owner, table, path / name, diagnostics, without=("name",))
    return valid
