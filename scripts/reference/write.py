"""The parts of the documentation that are made from the code: the table of keys, the schema, the end reasons.

A test compares what stands in the files with what this makes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attrs import NOTHING

from mailproxy.config import json_schema, model
from mailproxy.config.shape import SHORT_FORMS, Key, keys_of
from mailproxy.config.tables import write_value
from mailproxy.config.units import write_duration
from mailproxy.config.values import LogTarget, Mode, Name, RatePeriod, Seconds, Size, Text, TimeLimit, show
from mailproxy.log import ENDS, Phase

ROOT = Path(__file__).resolve().parent.parent.parent
START, STOP = "<!-- ends: made by scripts/write-reference -->", "<!-- /ends -->"

TABLES = {
    "[process]": model.Process,
    "[log]": model.Log,
    "[admin]": model.Admin,
    "[frontends.NAME]": model.Frontend,
    "[[frontends.NAME.bind]]": model.Bind,
    "[[frontends.NAME.routes]]": model.Route,
    "timeouts of a frontend": model.FrontendTimeouts,
    "max_session_rate_per_client": model.SessionRate,
    "tls of a frontend or bind": model.FrontendTls,
    "[backends.NAME]": model.Backend,
    "servers of a backend": model.Server,
    "timeouts of a backend": model.BackendTimeouts,
    "tls of a backend or server": model.ServerTls,
    "stick": model.Stick,
    "check": model.Check,
    "steps of a check": model.Step,
    "connect of a step": model.Connect,
}

HEAD = """# Every key of the configuration

Made from the code by `scripts/write-reference`; the same as JSON Schema, for editors: `mailproxy schema`.

A key that is not here is a fault. Durations are `"300ms"`, `"5s"`, `"31m"`, `"1h"`, `"2d"` or a number of seconds; sizes `"200k"`
= 204 800 or a number. Relative paths are relative to the file. `${NAME}` and `${NAME:-default}` in strings come from the
environment, `$$` is a dollar sign. What stands under *only* is what this version can do: anything else is refused, never
ignored.

A key holds for the table that it stands in, else for a server its backend's (`tls`, `send_proxy`, `check`, …) and for a
bind its frontend's (`tls`), else the profile's, else `[defaults]`'s. `[defaults.frontend]`, `[defaults.bind]`,
`[defaults.backend]`, `[defaults.server]` and the same four under `[profiles.NAME.…]` take the keys of those tables. Tables
merge key by key, lists and single values replace, `false` switches off an inherited `tls`, `stick`, `check` or
`max_session_rate_per_client`.
"""


def reference() -> str:
    """docs/configuration.md."""
    parts = [HEAD]
    for title, table in TABLES.items():
        parts.append(f"## {title}\n\n{(table.__doc__ or '').splitlines()[0]}\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|")
        named = title in ("[frontends.NAME]", "[backends.NAME]")
        parts += [row(key) for key in keys_of(table).values() if not (named and key.name == "name")]
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def row(key: Key) -> str:
    meaning = key.meaning
    if key.only is not None:
        words = " or ".join(write_value(key, value) for value in key.only if value is not None)
        meaning += f" (*only* {words or 'absent'})"
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
    one = SHORT.get(key.annotation) or (key.kind.allowed if key.kind is not None else "table")
    one = one.removeprefix("a ").removeprefix("an ")
    if key.table in SHORT_FORMS:
        one += f", or its {SHORT_FORMS[key.table]} alone"
    return f"list of: {one}" if key.many else one


def default_of(key: Key) -> str:
    default: Any = key.default
    if default is NOTHING and not key.shown:
        return "must be given"
    if key.shown:
        return key.shown
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
    return f"`{show(default) if not isinstance(default, str) else default}`"


def ends() -> str:
    """The table of end reasons in the README."""
    rows = ["| end | who | phase | state | meaning |", "|---|---|---|---|---|"]
    rows += [
        f"| `{end.name}` | {end.by.value} | {end.phase.value} | "
        f"{end.state if end.phase is Phase.HANDSHAKE else f'`{end.state}`'} | {end.meaning} |"
        for end in ENDS
    ]
    return "\n".join(rows)


def schema() -> str:
    """config/mailproxy.schema.json."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def with_ends(readme: str) -> str:
    """The README with its table of end reasons renewed."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(STOP)
    return f"{before}{START}\n{ends()}\n{STOP}{after}"


def main() -> None:
    (ROOT / "docs" / "configuration.md").write_text(reference())
    (ROOT / "config" / "mailproxy.schema.json").write_text(schema())
    readme = ROOT / "README.md"
    readme.write_text(with_ends(readme.read_text()))


if __name__ == "__main__":
    main()
