"""Rules of the log: one target or several, each place once, and what only syslog has."""

from __future__ import annotations

from mailproxy.config import model
from mailproxy.config.key_paths import join
from mailproxy.config.validate import Diagnostics, Table
from mailproxy.config.values import LogTarget


def together(table: Table, found: Diagnostics) -> None:
    """`[[log.targets]]` has all there is to say; keys of one target beside it would be of none."""
    if "targets" not in table or "log.targets" in found.invalid_paths:
        return
    for name in table:
        if name != "targets":
            found.add(
                join("log", name),
                "goes into each of [[log.targets]]: it has no meaning beside several targets",
            )
    if not table["targets"]:
        found.add("log.targets", "is empty: at least one target is needed")


def outputs(log: model.Log, table: Table, found: Diagnostics) -> None:
    """No file has two formats, and only syslog has a facility and a tag."""
    known: dict[LogTarget, str] = {}
    tables = table.get("targets") or [table]
    for (path, output), written in zip(log.outputs.items(), tables, strict=True):
        if output.to.syslog is not None:
            continue
        for name in ("facility", "tag"):
            if name in written:
                found.add(join(path, name), f"has no meaning for {output.to}: only syslog has one")
        if output.to in known:
            found.add(join(path, "to"), f"{output.to} is the target of {known[output.to]} already")
        known.setdefault(output.to, path)
