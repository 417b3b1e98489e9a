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
from mailproxy.config.fields import SHORT_FORMS, keys_of, without_none
from mailproxy.config.key_paths import join
from mailproxy.config.source.origin import Origin
from mailproxy.config.source.syntax import SyntaxFault, decode, parse
from mailproxy.config.validate import Diagnostics, Table, check_named, check_table, unknown
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
    found = Diagnostics()
    try:
        tables = _check(_expand(mapping, "", found), found)
    except RecursionError:
        raise ConfigError([Fault("", "is nested too deeply")], origin.file) from None
    try:
        converter = _converter(Path(folder).absolute())
    except OSError as error:
        fact = f"the current folder is gone: {error.strerror}"
        raise ConfigError([Fault("", fact)], origin.file) from None
    config = build(tables, found, converter, origin)
    if found.faults or config is None:
        raise origin.error(found.faults)
    return config


def _check(mapping: Table, found: Diagnostics) -> Table:
    """Every table of the file where it stands, with bad keys dropped."""
    sections: dict[str, Callable[[object], object]] = {
        "process": lambda value: check_table(model.Process, value, "process", found),
        "log": lambda value: check_table(model.Log, value, "log", found),
        "admin": lambda value: check_table(model.Admin, value, "admin", found),
        "defaults": lambda value: _check_layers(value, "defaults", found),
        "profiles": lambda value: {
            name: _check_layers(layers, join("profiles", name), found, profile=True)
            for name, layers in check_named(value, "profiles", found).items()
        },
        "frontends": lambda value: _check_owners(model.Frontend, value, "frontends", found),
        "backends": lambda value: _check_owners(model.Backend, value, "backends", found),
    }
    for name in mapping:
        if name not in sections:
            found.add(join("", name), unknown(name, sections))
    return {name: check(mapping.get(name, {})) for name, check in sections.items()}


def _check_layers(value: object, path: str, found: Diagnostics, *, profile: bool = False) -> Table:
    layers = check_named(value, path, found)
    for name in layers:
        if name not in _LAYERED:
            found.add(join(path, name), unknown(name, _LAYERED))
    without = ("name", "profile") if profile else ("name",)
    return {
        name: check_table(_LAYERED[name], table, join(path, name), found, without=without)
        for name, table in layers.items()
        if name in _LAYERED
    }


def _check_owners(owner: type, value: object, path: str, found: Diagnostics) -> Table:
    name_kind = value_type_of(keys_of(owner)["name"].annotation)
    assert name_kind is not None  # noqa: S101 - names are of a kind
    checked = {}
    for name, table in check_named(value, path, found, example=f", [{path}.NAME]").items():
        here = join(path, name)
        try:
            name_kind.structure(name)
        except ValueError as error:
            found.drop(here, str(error))
            continue
        checked[name] = check_table(owner, table, here, found, without=("name",))
    return checked


def _expand(value: Any, path: str, found: Diagnostics) -> Any:
    """``${NAME}`` and ``${NAME:-default}`` from the environment, in strings; ``$$`` is a dollar sign."""
    if isinstance(value, Mapping):
        return {str(name): _expand(item, join(path, str(name)), found) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_expand(item, f"{path}[{index}]", found) for index, item in enumerate(value)]
    if not isinstance(value, str) or "$" not in value:
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        if match[0] == "$$":
            return "$"
        if name is None:
            found.drop(
                path,
                f"{to_display(value)} is not allowed: ${{NAME}}, ${{NAME:-default}}, or $$ for a dollar sign",
            )
            return ""
        if name not in os.environ and default is None:
            found.drop(path, f"the environment has no {name}")
            return ""
        # as in a shell, an empty variable counts as absent where there is a default
        return os.environ.get(name, "") or default or ""

    text = _VARIABLE.sub(replace, value)
    # A string that is one variable and nothing else may stand for a number or a truth, too.
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
