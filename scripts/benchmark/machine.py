"""A line about a run: rounds, the versions of all that was measured, and the machine."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from configurations import variant_of
from programs import Programs, ask, checkout_version, haproxy_version, nginx_version


def version(name: str, programs: Programs) -> str:
    """Return the name and version of a variant's program."""
    program = variant_of(name).program
    if program == "haproxy":
        return haproxy_version(programs.haproxy)
    if program == "nginx":
        return nginx_version()
    if program == "revision":
        return f"revision {programs.revision_name}"
    return checkout_version(programs)


def about(proxies: list[str], rounds: int, programs: Programs) -> str:
    """Describe the run: rounds, versions, operating system and machine."""
    turns = "1 round" if rounds == 1 else f"medians of {rounds} rounds"
    versions = dict.fromkeys(version(name, programs) for name in proxies)
    return ", ".join([turns, *versions, str(ask(programs.python)), machine()])


def machine() -> str:
    """Return kernel, number of cores and processor."""
    cores = len(os.sched_getaffinity(0))
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    kernel = re.match(r"[\d.]+", platform.release())
    return (
        f"Linux {kernel[0].rstrip('.') if kernel else platform.release()}, "
        f"{cores} cores ({model[1].strip() if model else platform.machine()})"
    )
