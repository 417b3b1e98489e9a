"""Generates parts of the documentation: keys, schema, manual pages, end reasons, and the log's fields and events.

A test compares the files with the output of this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import man  # beside this file
from attrs import NOTHING

from mailproxy.config import json_schema, model
from mailproxy.config.fields import SHORT_FORMS, Key, keys_of
from mailproxy.config.units import write_duration
from mailproxy.config.validate import to_toml
from mailproxy.config.values import (
    LogTarget,
    Mode,
    Name,
    RatePeriod,
    Seconds,
    Size,
    Text,
    TimeLimit,
    to_display,
)
from mailproxy.log import ENDS, Phase
from mailproxy.log.events import EVENTS
from mailproxy.log.fields import SESSION_FIELDS

ROOT = Path(__file__).resolve().parent.parent.parent

TABLES = {
    "[process]": model.Process,
    "[log]": model.Log,
    "[[log.targets]]": model.LogOutput,
    "[admin]": model.Admin,
    "[frontends.NAME]": model.Frontend,
    "[[frontends.NAME.bind]]": model.Bind,
    "[[frontends.NAME.routes]]": model.Route,
    "timeouts of a frontend": model.FrontendTimeouts,
    "max_session_rate_per_client": model.SessionRate,
    "tls of a frontend or bind": model.FrontendTls,
    "certificates of such a tls": model.CertificateFiles,
    "[backends.NAME]": model.Backend,
    "servers of a backend": model.Server,
    "timeouts of a backend": model.BackendTimeouts,
    "tls of a backend or server": model.ServerTls,
    "keepalive of a bind, backend or server": model.KeepAlive,
    "stick": model.Stick,
    "check": model.Check,
    "steps of a check": model.Step,
    "connect of a step": model.Connect,
}

HEAD = """# Every key of the configuration

Made from the code by `scripts/write-reference`. The same as a manual page: `man mailproxy.toml`. As JSON Schema, for
editors: `mailproxy schema`.

{}"""
RULES = """A key that is not listed here is a fault; no key is ignored. `mailproxy check` names its file, line and column. For
words of HAProxy, nginx and Caddy it names the key that is meant. The line is that of the value, also where it is inherited from
a profile or the defaults. Where a meaning says *only*, this version supports just these values, and refuses others.

Durations are `"300ms"`, `"5s"`, `"31m"`, `"1h"`, `"2d"` or a number of seconds. Sizes are `"200k"` (204 800 bytes) or a
number. Relative paths are relative to the folder of the configuration file, and with `mailproxy check -` to the current
folder. In strings, `${NAME}` and `${NAME:-default}` are replaced from the environment; `$$` is a dollar sign.

mailproxy takes the value of a key from the first of these places that has it:

1. the table itself
2. for a server, its backend (`tls`, `send_proxy`, `check` and others); for a bind, its frontend (`tls`)
3. the table's profile
4. `[defaults]`
5. the default in the tables below

`[defaults.frontend]`, `[defaults.bind]`, `[defaults.backend]` and `[defaults.server]` take the keys of those tables, and so
do the same four under `[profiles.NAME]`. Tables are merged key by key. Lists and single values replace what would be
inherited. `false` switches off an inherited `tls`, `stick`, `check` or
`max_session_rate_per_client`.
"""


def reference() -> str:
    """Return docs/configuration.md."""
    parts = [HEAD.replace("{}", RULES)]
    for title, table in TABLES.items():
        parts.append(f"## {title}\n\n{(table.__doc__ or '').splitlines()[0]}\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|")
        parts += [row(key) for key in shown_keys(title, table)]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def shown_keys(title: str, table: type) -> list[Key]:
    """Return the keys of a table, without a name that is in its title."""
    has_name_in_title = title in ("[frontends.NAME]", "[backends.NAME]")
    return [key for key in keys_of(table).values() if not (has_name_in_title and key.name == "name")]


def command_manual() -> str:
    """Return docs/man/mailproxy.1."""
    return man.command_page()


def configuration_manual() -> str:
    """Return docs/man/mailproxy.toml.5."""
    cells = {
        title: {key.name: manual_cell(key) for key in shown_keys(title, table)}
        for title, table in TABLES.items()
    }
    return man.configuration_page(RULES, TABLES, cells)


def manual_cell(key: Key) -> str:
    """Return type and default of a key for the manual page."""
    text = f"Type: {type_of(key)}."
    if default := default_of(key):
        text += f" Default: {default}."
    if key.supported is not None:
        text += f" This version supports only: {supported(key)}."
    return text


def supported(key: Key) -> str:
    """Return the values that this version supports, as in TOML."""
    return " or ".join(to_toml(key, value) for value in key.supported or () if value is not None) or "absent"


def row(key: Key) -> str:
    """Return a key's row of its table."""
    meaning = key.description
    if key.supported is not None:
        meaning += f" (*only* {supported(key)})"
    return f"| `{key.name}` | {cell(type_of(key))} | {cell(default_of(key))} | {cell(meaning)} |"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


SHORT = {
    Seconds: "duration",
    TimeLimit: "duration, above 0",
    RatePeriod: "duration, above 0, at most 1d",
    Size: "size",
    Name: "name",
    Text: "string",
}


def type_of(key: Key) -> str:
    text = SHORT.get(key.annotation) or (key.kind.allowed if key.kind is not None else "table")
    text = text.removeprefix("a ").removeprefix("an ")
    if key.kind is not None and key.table is not None:
        text = "true, false, or a table"
    if key.table in SHORT_FORMS:
        text += f", or its {SHORT_FORMS[key.table]} alone"
    return f"list of: {text}" if key.is_list else text


def default_of(key: Key) -> str:
    default: Any = key.default
    if default is NOTHING and not key.default_text:
        return "must be given"
    if key.default_text:
        return key.default_text
    if key.annotation in (Seconds, TimeLimit, RatePeriod) and default is not None:
        return f"`{write_duration(default)}`"
    if key.annotation is Size:
        return f"`{default // 1024}k`"
    if key.annotation is Mode:
        return f"`{default:04o}`"
    if isinstance(default, LogTarget):
        return f"`{default}`"
    if default is None or default == ():
        return "none" if default is None else ""
    return f"`{to_display(default) if not isinstance(default, str) else default}`"


def ends() -> str:
    """Return the table of end reasons in the README."""
    rows = ["| end | who | phase | state | meaning |", "|---|---|---|---|---|"]
    rows += [
        f"| `{end.name}` | {end.by.value} | {end.phase.value} | "
        f"{end.state if end.phase is Phase.HANDSHAKE else f'`{end.state}`'} | {end.meaning} |"
        for end in ENDS
    ]
    return "\n".join(rows)


def schema() -> str:
    """Return config/mailproxy.schema.json."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def fields() -> str:
    """Return the table of a session's fields in docs/logging.md."""
    rows = ["| field | type | meaning | example |", "|---|---|---|---|"]
    rows += [
        f"| `{each.name}` | {each.kind} | {each.meaning} | `{each.example}` |" for each in SESSION_FIELDS
    ]
    return "\n".join(rows)


def events() -> str:
    """Return the table of events in docs/logging.md."""
    rows = ["| event | level | meaning | keys in `json` |", "|---|---|---|---|"]
    rows += [
        f"| `{each.name}` | {each.level} | {each.meaning} | {', '.join(f'`{key}`' for key in each.keys)} |"
        for each in EVENTS
    ]
    return "\n".join(rows)


def with_table(page: str, name: str, table: str) -> str:
    """Return the page with this table between its marks. Raises ValueError if it has no such marks."""
    start, stop = f"<!-- {name}: made by scripts/write-reference -->", f"<!-- /{name} -->"
    before, mark, rest = page.partition(start)
    _, _, after = rest.partition(stop)
    if not mark:
        raise ValueError(f"the page has no marks of {name}")
    return f"{before}{start}\n{table}\n{stop}{after}"


def with_ends(readme: str) -> str:
    """Return the README with the current table of end reasons."""
    return with_table(readme, "ends", ends())


def with_log(page: str) -> str:
    """Return docs/logging.md with the current tables."""
    return with_table(with_table(page, "fields", fields()), "events", events())


def main() -> None:
    (ROOT / "docs" / "configuration.md").write_text(reference())
    (ROOT / "config" / "mailproxy.schema.json").write_text(schema())
    (ROOT / "docs" / "man").mkdir(exist_ok=True)
    (ROOT / "docs" / "man" / "mailproxy.1").write_text(command_manual())
    (ROOT / "docs" / "man" / "mailproxy.toml.5").write_text(configuration_manual())
    readme = ROOT / "README.md"
    readme.write_text(with_ends(readme.read_text()))
    logging = ROOT / "docs" / "logging.md"
    logging.write_text(with_log(logging.read_text()))


if __name__ == "__main__":
    main()
