"""Write the parts of the documentation that are made from the code.

These are keys, JSON Schema, manual pages, completion, the end reasons, fields and events of the log, the commands of the
admin socket, the metrics, and the tables of directives of other programs. A test compares the files with what this
script makes.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import man  # beside this file
from attrs import NOTHING

from mailproxy.admin.exporter.names import METRICS
from mailproxy.admin.runtime.commands import COMMANDS
from mailproxy.cli import main as program
from mailproxy.cli.completion import completion_script
from mailproxy.config import json_schema, model
from mailproxy.config.fields import SHORT_FORMS, Key, keys_of
from mailproxy.config.units import write_duration
from mailproxy.config.validate import to_toml
from mailproxy.config.values import (
    LogTarget,
    Mode,
    Name,
    PositiveSeconds,
    RatePeriod,
    Seconds,
    Size,
    Text,
    to_display,
)
from mailproxy.importers.caddy.directives import PAGE_GROUPS as CADDY
from mailproxy.importers.directive import pages
from mailproxy.importers.haproxy.directives import PAGE_GROUPS as HAPROXY
from mailproxy.importers.nginx.directives import PAGE_GROUPS as NGINX
from mailproxy.importers.traefik.directives import PAGE_GROUPS as TRAEFIK
from mailproxy.log import END_REASONS, EndReason, Phase
from mailproxy.log.events import EVENTS, Event
from mailproxy.log.fields import SESSION_FIELDS

ROOT = Path(__file__).resolve().parent.parent.parent

TABLES = {
    "[process]": model.Process,
    "[log]": model.Log,
    "[[log.targets]]": model.LogOutput,
    "[tracing]": model.Tracing,
    "[admin]": model.Admin,
    "[metrics]": model.Metrics,
    "[acme.NAME]": model.Acme,
    "dns of [acme.NAME]": model.AcmeDns,
    "rfc2136 of dns": model.Rfc2136,
    "eab of [acme.NAME]": model.AcmeEab,
    "[frontends.NAME]": model.Frontend,
    "[[frontends.NAME.bind]]": model.Bind,
    "[[frontends.NAME.routes]]": model.Route,
    "timeouts of a frontend": model.FrontendTimeouts,
    "max_session_rate_per_client": model.SessionRate,
    "tls of a frontend or bind, and of admin": model.FrontendTls,
    "certificates of a frontend's tls": model.CertificateFiles,
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

<!-- Made by scripts/write-reference from mailproxy/config/model: change that, not this page. -->

A configuration names where clients connect (frontends) and where their sessions go (backends). What
several of them share, you write once, in defaults or in a profile:

```toml
#:schema ./mailproxy.schema.json

[defaults.backend.timeouts]
connect = "3s"                          # for all backends

[profiles.exchange.server]
max_sessions = 5000                     # for the servers of all backends with this profile

[frontends.imap]
protocol = "imap"
backend = "exchange"
bind = ["*:143"]

[backends.exchange]
profile = "exchange"
servers = [
  "192.0.2.11:143",
  { address = "192.0.2.12:143", max_sessions = 1000 },
]
```

Check the file with `mailproxy check FILE`. It reports every fault at once. For completion and
checks in your editor, run `mailproxy schema > mailproxy.schema.json` beside the file, and keep its
first line. This page is also a manual page: `man mailproxy.toml`.

"""
RULES = """mailproxy rejects keys that are not listed here. `mailproxy check` names file, line and column of each fault. For the words of
HAProxy, nginx and Caddy it names the key that you need. The line is the one that you have to change, also if the value is
inherited from a profile or the defaults. Where a meaning says *only*, this version supports just these values.

A duration is `"300ms"`, `"5s"`, `"31m"`, `"1h"`, `"2d"` or a number of seconds. A size is `"200k"` (204 800 bytes) or a
number. A relative path begins at the folder of the configuration file, and with `mailproxy check -` at the current folder.
In strings, `${NAME}` and `${NAME:-default}` are replaced from the environment. `$$` is a dollar sign.

mailproxy takes the value of a key from the first of these places that has it:

1. the table itself
2. the backend of a server (`tls`, `send_proxy`, `check` and others), the frontend of a bind (`tls`)
3. the table's profile
4. `[defaults]`
5. the default in the tables below

`[defaults.frontend]`, `[defaults.bind]`, `[defaults.backend]` and `[defaults.server]` take the keys of those tables.
The same four tables under `[profiles.NAME]` take them, too. Tables are merged key by key. Lists and single values replace
the inherited value. `false` switches off an inherited `tls`, `stick`, `check` or `max_session_rate_per_client`.
"""
ENDS_HEAD = """# End reasons

<!-- Made by scripts/write-reference from mailproxy/log/end_reasons.py: change that, not this page. -->

Each session ends with one of these reasons. It is the field `end` in `json` and `text`. In `tcplog`
it is the two letters of the state, or HAProxy's message if the session ended before its route.
[Logging](logging.md#how-sessions-end) explains how to read them, and
[Troubleshooting](troubleshooting.md#states-in-the-log) what to do about them.
"""
FIELDS_HEAD = """# Fields and events of the log

<!-- Made by scripts/write-reference from mailproxy/log/fields.py and events.py: change those, not this page. -->

[Logging](logging.md) explains targets, formats and the life of a session.

## Fields of a session

In `json`, each session has all of these fields. One that does not apply is null. Later versions may
add fields.
"""
EVENTS_HEAD = """
## Events

In `json`, `event` is the name. Each event has `time`, `level` and `message`, and the keys that are
named here.
"""
COMMANDS_HEAD = """# Commands of the admin socket

<!-- Made by scripts/write-reference from mailproxy/admin/runtime/commands.py: change that, not this page. -->

What you can send with `mailproxy ctl COMMAND`, with the level that it needs. The words are
HAProxy's. [Admin socket](admin-socket.md) explains levels, arguments and differences from HAProxy.
"""
MAX_COLUMNS = 100


def reference() -> str:
    """Return docs/configuration.md."""
    parts = [HEAD + wrapped(RULES) + "\n"]
    for title, table in TABLES.items():
        keys = shown_keys(title, table)
        parts.append(f"## {title}\n\n{wrapped(intro(table))}\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|")
        parts += [row(key) for key in keys]
        parts.append("")
        parts += [f"{wrapped(f'`{key.name}`: {key.details}')}\n" for key in keys if key.details]
    return "\n".join(parts).rstrip() + "\n"


def intro(table: type) -> str:
    """Return what the documentation has above the keys of a table: the docstring of its class."""
    return inspect.cleandoc(table.__doc__ or "")


def wrapped(text: str) -> str:
    """Return Markdown with its paragraphs wrapped; numbered lists stay as they are."""
    return "".join(
        part if re.match(r"\d\. |\n", part) else textwrap.fill(part, MAX_COLUMNS)
        for part in re.split(r"(\n\n+)", text)
    )


def shown_keys(title: str, table: type) -> list[Key]:
    """Return the keys of a table without the name that is in its heading."""
    named = title in ("[acme.NAME]", "[frontends.NAME]", "[backends.NAME]")
    return [key for key in keys_of(table).values() if not (named and key.name == "name")]


def command_manual() -> str:
    """Return docs/man/mailproxy.1."""
    return man.command_page()


def bash_completion() -> str:
    """Return docs/completion/mailproxy.bash."""
    return completion("bash")


def zsh_completion() -> str:
    """Return docs/completion/_mailproxy."""
    return completion("zsh")


def fish_completion() -> str:
    """Return docs/completion/mailproxy.fish."""
    return completion("fish")


def completion(shell: str) -> str:
    """Return what ``mailproxy completion`` prints."""
    return completion_script(shell, program, [each.words for each in COMMANDS])


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
    PositiveSeconds: "duration, above 0",
    RatePeriod: "duration, above 0, at most 1d",
    Size: "size",
    Name: "name",
    Text: "string",
}


def type_of(key: Key) -> str:
    text = SHORT.get(key.annotation) or (key.value_type.allowed if key.value_type is not None else "table")
    text = text.removeprefix("a ").removeprefix("an ")
    if key.value_type is not None and key.table is not None:
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
    if key.annotation in (Seconds, PositiveSeconds, RatePeriod) and default is not None:
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


def end_reasons() -> str:
    """Return docs/end-reasons.md: an index by state, then each reason under its phase."""
    names: dict[str, list[str]] = {}
    for end in END_REASONS:
        if not end.has_message:
            names.setdefault(end.state, []).append(f"`{end.name}`")
    index = [f"| `{state}` | {', '.join(names[state])} |" for state in sorted(names)]
    parts = [ENDS_HEAD.rstrip(), "\n".join(["| state | end reasons |", "|---|---|", *index])]
    for phase in Phase:
        parts.append(f"## Phase {phase.value}")
        parts.append("\n".join(end_item(end) for end in END_REASONS if end.phase is phase))
    return "\n\n".join(parts) + "\n"


def end_item(end: EndReason) -> str:
    """Return one end reason as an item of a list."""
    state = f'message "{end.state}"' if end.has_message else f"`{end.state}`"
    return item(f"**`{end.name}`** ({state}, ended by: {end.by.value}): {end.meaning}.")


def item(text: str) -> str:
    """Return an item of a list, wrapped as pages are."""
    return textwrap.fill(
        text,
        width=100,
        initial_indent="- ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def schema() -> str:
    """Return config/mailproxy.schema.json."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def log_fields() -> str:
    """Return docs/log-fields.md: the fields of a session, then the events."""
    rows = [f"| `{each.name}` | {each.kind} | {each.meaning} | `{each.example}` |" for each in SESSION_FIELDS]
    parts = [FIELDS_HEAD, "| field | type | meaning | example |", "|---|---|---|---|", *rows, EVENTS_HEAD]
    return "\n".join([*parts, *map(event_item, EVENTS)]) + "\n"


def commands() -> str:
    """Return docs/admin-commands.md."""
    rows = [f"| `{cell(each.usage)}` | {each.level.name.lower()} | {cell(each.help)} |" for each in COMMANDS]
    return "\n".join([COMMANDS_HEAD, "| command | level | does |", "|---|---|---|", *rows]) + "\n"


def event_item(event: Event) -> str:
    """Return one event as an item of a list."""
    keys = f" Keys: {', '.join(f'`{key}`' for key in event.keys)}." if event.keys else ""
    return item(f"**`{event.name}`** ({event.level}): {event.meaning}.{keys}")


def replace_part(page: str, name: str, text: str) -> str:
    """Return a page with new text between the marks of a generated part.

    Raises:
        ValueError: The page has no such marks.
    """
    begin, end = f"<!-- {name}: made by scripts/write-reference -->", f"<!-- /{name} -->"
    before, mark, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    if not mark:
        raise ValueError(f"the page has no marks of {name}")
    return f"{before}{begin}\n{text}\n{end}{after}"


def metrics() -> str:
    """Return the metrics in docs/metrics.md, those that HAProxy has first."""
    parts = []
    for title, is_haproxys in (("As HAProxy's", True), ("Only here", False)):
        rows = [
            (
                f"`mailproxy_{metric.name}`",
                metric.type,
                ", ".join(f"`{label}`" for label in metric.labels),
                metric.help.rstrip("."),
            )
            for metric in METRICS
            if metric.is_haproxys is is_haproxys
        ]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        parts.append(f"### {title}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n{table}")
    return "\n" + "\n\n".join(parts) + "\n"


def with_metrics(page: str) -> str:
    """Return docs/metrics.md with its generated part renewed."""
    return replace_part(page, "metrics", metrics())


MIGRATION = {
    "haproxy": ("HAProxy", HAPROXY),
    "nginx": ("nginx", NGINX),
    "caddy": ("Caddy", CADDY),
    "traefik": ("Traefik", TRAEFIK),
}


def with_directives(program: str, page: str) -> str:
    """Return docs/from-PROGRAM.md with the tables of its importer renewed."""
    title, groups = MIGRATION[program]
    return replace_part(page, "directives", f"\n{pages(title, groups)}\n")


def main() -> None:
    (ROOT / "docs" / "configuration.md").write_text(reference())
    (ROOT / "config" / "mailproxy.schema.json").write_text(schema())
    (ROOT / "docs" / "man").mkdir(exist_ok=True)
    (ROOT / "docs" / "man" / "mailproxy.1").write_text(command_manual())
    (ROOT / "docs" / "man" / "mailproxy.toml.5").write_text(configuration_manual())
    for source in MIGRATION:
        page = ROOT / "docs" / f"from-{source}.md"
        page.write_text(with_directives(source, page.read_text()))
    completions = ROOT / "docs" / "completion"
    completions.mkdir(exist_ok=True)
    (completions / "mailproxy.bash").write_text(bash_completion())
    (completions / "_mailproxy").write_text(zsh_completion())
    (completions / "mailproxy.fish").write_text(fish_completion())
    (ROOT / "docs" / "end-reasons.md").write_text(end_reasons())
    (ROOT / "docs" / "log-fields.md").write_text(log_fields())
    (ROOT / "docs" / "admin-commands.md").write_text(commands())
    metrics_page = ROOT / "docs" / "metrics.md"
    metrics_page.write_text(with_metrics(metrics_page.read_text()))


if __name__ == "__main__":
    main()
