"""Reading a configuration: TOML and environment in, frozen values or every fault at once out."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar

import cattrs
from attrs import evolve

from mailproxy.address import BindAddress, ServerAddress, UnixAddress
from mailproxy.config import model
from mailproxy.config.build import build
from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.fields import SHORT_FORMS, keys_of, without_none
from mailproxy.config.layers import Table
from mailproxy.config.lint.unknown_keys import describe_unknown_key
from mailproxy.config.path import ROOT_PATH, ConfigPath
from mailproxy.config.source.origin import Origin
from mailproxy.config.source.syntax import SyntaxFault, decode, parse
from mailproxy.config.validate import check_named, check_table
from mailproxy.config.values import KINDS, Expanded, LogTarget, to_display, value_type_of
from mailproxy.errors import ConfigError, Fault

_FILE_MAX = 16 * 2**20  # bytes; a larger file is no configuration, and is not read into memory
_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\{)")
_LAYERED = {"frontend": model.Frontend, "bind": model.Bind, "backend": model.Backend, "server": model.Server}
_T = TypeVar("_T")


def load(path: str | os.PathLike[str]) -> model.Config:
    """Read a configuration file.

    Raises ConfigError with every fault that stands in the text; files that it names are not opened yet.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            return load_stream(stream, folder=file.parent, source=str(path))
    except OSError as error:
        raise ConfigError([Fault("", f"cannot be read: {error.strerror}")], str(path)) from None
    except ValueError as error:  # a path with a zero byte
        raise ConfigError([Fault("", f"cannot be read: {error}")], str(path)) from None


def load_stream(stream: IO[bytes], *, folder: str | os.PathLike[str] = ".", source: str = "") -> model.Config:
    """Read a configuration from an open file, such as standard input.

    Args:
        stream: Is read to its end.
        folder: What relative paths are relative to.
        source: The name that faults begin with.

    Raises:
        ConfigError: With every fault that stands in the text.
        OSError: The stream cannot be read.
    """
    data = stream.read(_FILE_MAX + 1)
    if len(data) > _FILE_MAX:
        raise ConfigError([Fault("", f"is larger than {_FILE_MAX} bytes")], source)
    try:
        text = decode(data)
        tables = parse(text)
    except SyntaxFault as error:
        raise ConfigError([error.fault], source) from None
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError([Fault("", f"cannot be read: {error}")], source) from None
    except RecursionError:
        raise ConfigError([Fault("", "is nested too deeply")], source) from None
    return evolve(
        _read(tables, folder, Origin(source, tables, text)), digest=hashlib.sha256(data).hexdigest()
    )


def has_changed(config: model.Config) -> bool:
    """Whether the file has other content than when it was loaded, or is gone. Blocks; False where it may not be read any more."""
    if not config.digest:
        return False
    try:
        data = Path(config.source).read_bytes()
    except PermissionError:
        return False
    except OSError:
        return True
    return hashlib.sha256(data).hexdigest() != config.digest


def from_mapping(
    mapping: Mapping[str, Any], *, folder: str | os.PathLike[str] = ".", source: str = ""
) -> model.Config:
    """Make a configuration from the same tables that the TOML file has.

    ``folder``: what relative paths are relative to. Raises ConfigError with every fault.
    """
    return _read(mapping, folder, Origin(source, mapping))


def _read(mapping: Mapping[str, Any], folder: str | os.PathLike[str], origin: Origin) -> model.Config:
    diagnostics = Diagnostics()
    try:
        tables = _validate(_expand(mapping, ROOT_PATH, diagnostics), diagnostics)
    except RecursionError:
        raise ConfigError([Fault("", "is nested too deeply")], origin.file) from None
    try:
        converter = _converter(Path(folder).absolute())
    except OSError as error:
        fact = f"the current folder is gone: {error.strerror}"
        raise ConfigError([Fault("", fact)], origin.file) from None
    config = build(tables, diagnostics, converter, origin)
    if config is None:
        raise origin.error(diagnostics.faults)
    return config


def _validate(mapping: Table, diagnostics: Diagnostics) -> Table:
    """Validate every table of the file; return them without their invalid keys."""
    sections: dict[str, Callable[[object, ConfigPath], object]] = {
        "process": lambda value, path: check_table(model.Process, value, path, diagnostics),
        "log": lambda value, path: check_table(model.Log, value, path, diagnostics),
        "admin": lambda value, path: check_table(model.Admin, value, path, diagnostics),
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
    name_kind = value_type_of(keys_of(owner)["name"].annotation)
    assert name_kind is not None  # noqa: S101 - names are of a kind
    valid = {}
    for name, table in check_named(value, path, diagnostics, example=f", [{path}.NAME]").items():
        try:
            name_kind.structure(name)
        except ValueError as error:
            diagnostics.drop(path / name, str(error))
            continue
        valid[name] = check_table(owner, table, path / name, diagnostics, without=("name",))
    return valid


def _expand(value: Any, path: ConfigPath, diagnostics: Diagnostics) -> Any:
    """Replace variables of the environment in every string of nested tables and lists.

    ``${NAME}`` and ``${NAME:-default}`` are variables, ``$$`` is a dollar sign.
    """
    if isinstance(value, Mapping):
        return {str(name): _expand(item, path / str(name), diagnostics) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_expand(item, path / index, diagnostics) for index, item in enumerate(value)]
    if not isinstance(value, str) or "$" not in value:
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        if match[0] == "$$":
            return "$"
        if name is None:
            allowed = "${NAME}, ${NAME:-default}, or $$ for a dollar sign"
            diagnostics.drop(path, f"{to_display(value)} is not allowed: {allowed}")
            return ""
        if name not in os.environ and default is None:
            diagnostics.drop(path, f"the environment has no {name}")
            return ""
        # as in a shell, an empty variable counts as absent where there is a default
        return os.environ.get(name, "") or default or ""

    text = _VARIABLE.sub(replace, value)
    # A string that is one variable and nothing else may also be a number or a boolean.
    return Expanded(text) if _VARIABLE.fullmatch(value) else text


@lru_cache(
    maxsize=4
)  # it takes ten milliseconds to make, and embedding programs read many small configurations in tests
def _converter(folder: Path) -> cattrs.Converter:
    """Cattrs with a strict hook for every kind; paths become absolute."""
    converter = cattrs.Converter(forbid_extra_keys=True)

    def structure(value: object, annotation: Any) -> Any:
        annotation = without_none(annotation)
        kind = value_type_of(annotation)
        assert kind is not None  # noqa: S101 - the predicate asked the same
        return _absolute(kind.structure(value), annotation, folder)

    converter.register_structure_hook_func(
        lambda annotation: value_type_of(without_none(annotation)) is not None, structure
    )
    for annotation in KINDS:
        if isinstance(annotation, type):  # cattrs' own hooks for plain classes would come first
            converter.register_structure_hook(annotation, structure)
    converter.register_structure_hook_func(
        lambda annotation: without_none(annotation) == model.ServerTls | bool,
        lambda value, _: value if isinstance(value, bool) else converter.structure(value, model.ServerTls),
    )
    converter.register_structure_hook_func(
        lambda annotation: annotation == model.KeepAlive | bool,
        lambda value, _: value if isinstance(value, bool) else converter.structure(value, model.KeepAlive),
    )
    for table in (*SHORT_FORMS, model.Step):
        _register_table(converter, table)
    return converter


def _register_table(converter: cattrs.Converter, table: type[_T]) -> None:
    renamed = {
        key.attribute: cattrs.gen.override(rename=key.name)
        for key in keys_of(table).values()
        if key.attribute != key.name
    }
    from_dict = cattrs.gen.make_dict_structure_fn(table, converter, _cattrs_forbid_extra_keys=True, **renamed)  # type: ignore[arg-type]
    short = SHORT_FORMS.get(table)

    def structure(value: Any, _type: object) -> Any:
        return from_dict({short: value} if short and isinstance(value, str) else value, table)

    converter.register_structure_hook(table, structure)


def _absolute(value: Any, annotation: Any, folder: Path) -> Any:
    if annotation is Path:
        return folder / value
    if annotation is LogTarget and value.path is not None:
        return LogTarget(str(folder / value.path))
    if annotation in (BindAddress, ServerAddress) and isinstance(value, UnixAddress):
        return UnixAddress(str(folder / value.path))
    return value
