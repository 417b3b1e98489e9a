"""Checks of this machine for ``admin.http``: the packages of the extra, and the token."""

from __future__ import annotations

import importlib.util

from mailproxy.admin.http.token import read_token
from mailproxy.config import Config
from mailproxy.config.path import ROOT_PATH
from mailproxy.display_path import display_path
from mailproxy.proxy.host_checks import Add

_HTTP_PACKAGES = ("hypercorn", "starlette", "prometheus_client")  # the extra http


def check_http(config: Config, add: Add) -> None:
    """Check that the packages for HTTP are installed, and that its token can be read."""
    if config.admin.http is None:
        return
    if missing := [name for name in _HTTP_PACKAGES if importlib.util.find_spec(name) is None]:
        add(
            ROOT_PATH / "admin" / "http",
            f"{', '.join(missing)} not installed, which HTTP needs: pip install 'mailproxy[http]'",
        )
    if config.admin.token_file is not None:
        try:
            read_token(config.admin.token_file)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            add(ROOT_PATH / "admin" / "token_file", f"{display_path(config.admin.token_file)}: {reason}")
