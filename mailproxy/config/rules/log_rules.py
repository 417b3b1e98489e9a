"""Rules for the targets of the log."""

from __future__ import annotations

from mailproxy.config import model
from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.layers import Layer, Table
from mailproxy.config.path import ROOT_PATH, ConfigPath
from mailproxy.config.values import LogTarget

_LOG = ROOT_PATH / "log"
_TARGETS = _LOG / "targets"


def check_targets(table: Table, diagnostics: Diagnostics) -> None:
    """Check that ``[log]`` has either ``[[log.targets]]`` or keys of a single target."""
    if "targets" not in table or diagnostics.is_invalid(_TARGETS):
        return
    for name in table:
        if name != "targets":
            fact = "belongs in each table of [[log.targets]], because there are several targets"
            diagnostics.add(_LOG / name, fact)
    if not table["targets"]:
        diagnostics.add(_TARGETS, "is empty: at least one target is needed")


def check_outputs(log: model.Log, table: Table, diagnostics: Diagnostics) -> None:
    """Check that each file is the target once, and that only syslog has a facility and a tag."""
    known: dict[LogTarget, ConfigPath] = {}
    layer = Layer(_LOG, table)
    layers = list(layer.items("targets")) or [layer]
    for own, output in zip(layers, log.outputs.values(), strict=True):
        if output.to.syslog is not None:
            continue
        for name in ("facility", "tag"):
            if name in own.table:
                diagnostics.add(own.path / name, f"has no meaning for {output.to}: only syslog has one")
        if output.to in known:
            diagnostics.add(own.path / "to", f"{output.to} is the target of {known[output.to]} already")
        known.setdefault(output.to, own.path)
