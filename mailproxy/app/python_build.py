"""How the running Python was built, and advice about a build that is slow."""

from __future__ import annotations

import functools
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping

from attrs import frozen

_DISTRIBUTION_PREFIX = "/usr"
_OPTIMISED_LEVELS = ("2", "3", "fast", "s")


@frozen
class PythonBuild:
    """How a Python was built.

    Attributes:
        version: Its version, such as ``3.11.2``.
        compiler: The compiler with its version.
        is_debian: Whether Debian or a distribution made from it packages this Python.
        has_pgo: Whether it was built with profile-guided optimisation. None if the build does not record it.
        has_lto: The same for link-time optimisation.
        is_debug: Whether it was built for debugging: with assertions, or without the compiler's optimisations.
    """

    version: str
    compiler: str
    is_debian: bool
    has_pgo: bool | None
    has_lto: bool | None
    is_debug: bool = False

    def __str__(self) -> str:
        """Return one line, such as ``Python 3.11.2 (Debian, GCC 12.2.0, PGO and LTO)``."""
        facts = [*(["Debian"] if self.is_debian else []), self.compiler, self._optimisations()]
        return f"Python {self.version} ({', '.join(facts)}{', debugging' if self.is_debug else ''})"

    def _optimisations(self) -> str:
        if self.has_pgo is None or self.has_lto is None:
            return "PGO and LTO not recorded"
        names = [name for name, has in (("PGO", self.has_pgo), ("LTO", self.has_lto)) if has]
        return " and ".join(names) or "neither PGO nor LTO"


def build_of(
    variables: Mapping[str, object], *, version: str, compiler: str, base_prefix: str, schemes: Iterable[str]
) -> PythonBuild:
    """Return how a Python was built.

    Debian builds with both optimisations by targets of the Makefile, so the options of ``configure`` do not
    name them. The packages of other distributions may do the same.

    Args:
        variables: Its ``sysconfig.get_config_vars()``.
        version: Its version.
        compiler: Its compiler.
        base_prefix: Its ``sys.base_prefix``.
        schemes: Its ``sysconfig.get_scheme_names()``. Debian's packages have one more.
    """
    options = str(variables.get("CONFIG_ARGS") or "")
    is_debian = "deb_system" in schemes
    unnamed = True if is_debian else None if base_prefix == _DISTRIBUTION_PREFIX else False
    levels = re.findall(r"(?:^|\s)-O(\w*)", str(variables.get("PY_CFLAGS") or ""))
    return PythonBuild(
        version,
        compiler,
        is_debian,
        has_pgo="--enable-optimizations" in options or unnamed,
        has_lto=bool(re.search(r"--with-lto\b(?!=no)", options)) or unnamed,
        # The last level counts.
        is_debug=bool(variables.get("Py_DEBUG")) or bool(levels and levels[-1] not in _OPTIMISED_LEVELS),
    )


@functools.cache
def running_build() -> PythonBuild:
    """Return how the running Python was built."""
    return build_of(
        sysconfig.get_config_vars(),
        version=platform.python_version(),
        compiler=platform.python_compiler(),
        base_prefix=sys.base_prefix,
        schemes=sysconfig.get_scheme_names(),
    )


def advise_on_python() -> str | None:
    """Return advice if sessions cost more because of how the running Python was built.

    It is apart from the advice about a configuration, in which nothing can be done about it.
    """
    build = running_build()
    if build.is_debug:
        fact = "was built for debugging"
    elif build.has_pgo is False:
        # Measured beside Debian's 3.11.2 in one run: docs/speed.md.
        fact = "was built without profile-guided optimisation, which made sessions cost 13 % more where it was measured"
    else:
        return None
    return f"Python {build.version} {fact}: use Debian's Python, or build it with --enable-optimizations --with-lto"
