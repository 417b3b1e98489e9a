"""A change of the configuration file while the proxy runs: it is logged, since the file is not read again."""

from __future__ import annotations

import trio

from mailproxy.config import Config, has_changed
from mailproxy.log import Log
from mailproxy.log.events import CONFIG_CHANGED


async def log_if_changed(config: Config, log: Log) -> None:
    """Log if the file has changed since the start. For SIGHUP, at which other mail daemons reload."""
    try:
        changed = await trio.to_thread.run_sync(has_changed, config, abandon_on_cancel=True)
    except RuntimeError:  # no thread can be started: the next SIGHUP tries again
        return
    if changed:
        log.event(
            CONFIG_CHANGED,
            f"{config.source} has changed and is not read again: restart mailproxy to use it",
            file=config.source,
        )
