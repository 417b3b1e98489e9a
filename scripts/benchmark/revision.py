"""Another version of mailproxy, from Git, to be compared with the checked-out one."""

from __future__ import annotations

import io
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

from configurations import ProxySetup, variant_of
from errors import UsageError
from programs import ROOT, Programs, last_line, output_of


def find_commit(revision: str) -> str:
    """Return the id of a revision. Raises UsageError if Git does not know it."""
    code, output = output_of(
        [
            "git",
            "-C",
            str(ROOT),
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            f"{revision}^{{commit}}",
        ]
    )
    if code:
        raise UsageError(
            f"--compare {revision}: Git knows no such revision{f': {output}' if output else ''}".strip()
        )
    return output.strip()


def with_revision(programs: Programs, revision: str | None, folder: Path) -> Programs:
    """Extract the package of a revision into a folder. None leaves the programs as they are."""
    if revision is None:
        return programs
    commit = find_commit(revision)
    archive = subprocess.run(
        ["git", "-C", ROOT, "archive", "--format=tar", commit, "mailproxy"], capture_output=True, check=False
    )
    if archive.returncode:
        raise UsageError(f"--compare {revision}: it has no folder mailproxy")
    source = folder / "revision"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(source, filter="data")
    name = commit[:9] if commit.startswith(revision) else f"{revision} ({commit[:9]})"
    return replace(programs, revision=source, revision_name=name)


def check_revision(setup: ProxySetup) -> None:
    """Check that the revision starts here. Raises UsageError if it does not accept the configuration.

    It runs with the packages of the checked-out version, so it cannot need others.
    """
    *python, _, file = variant_of("revision").command(setup)
    code, output = output_of([*python, "check", file], setup.programs.environment("revision"))
    if code:
        name = setup.programs.revision_name
        raise UsageError(
            f"--compare: revision {name} does not accept the benchmark's configuration: {last_line(output)}"
        )
