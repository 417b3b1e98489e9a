"""Output of ``mailproxy check``: faults and advice, as text for people or JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Literal

import click

from mailproxy.errors import Fault

Severity = Literal["fault", "advice"]
Writer = Callable[[Severity, Iterable[Fault], str], None]


def write_text(severity: Severity, faults: Iterable[Fault], file: str) -> None:
    """Write a line for each, ``FILE:LINE:COLUMN: KEY: MESSAGE``.

    Faults go to standard error. Advice is marked as such and goes to standard output.
    """
    mark = "advice: " if severity == "advice" else ""
    for fault in faults:
        click.echo(f"{fault.location(file)}{mark}{fault}", err=severity == "fault")


def write_json(severity: Severity, faults: Iterable[Fault], file: str) -> None:
    """Write one list to standard output. It is empty if there are no faults or no advice."""
    click.echo(json.dumps([_entry(severity, fault, file) for fault in faults], indent=2))


def _entry(severity: Severity, fault: Fault, file: str) -> dict[str, object]:
    is_named = not fault.name or fault.name in fault.fact
    return {
        "severity": severity,
        "file": file,
        "line": fault.line,
        "column": fault.column,
        "key": fault.path,
        "message": fault.fact if is_named else f"{fault.name}: {fault.fact}",
    }
