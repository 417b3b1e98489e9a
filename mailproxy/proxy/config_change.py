"""The configuration file while the proxy runs: it is not read again, and the operator who expects that gets told."""

from __future__ import annotations

import trio

from mailproxy.config import Config, has_changed
from mailproxy.log import Log
from mailproxy.log.events import CONFIG_CHANGED


async def log_if_changed(config: Config, log: Log) -> None:
    """Log it if the file is another one than at the start. For SIGHUP, on which other mail daemons read theirs."""
    try:
        changed = await trio.to_thread.run_sync(has_changed, config, abandon_on_cancel=True)
    except RuntimeError:  # no thread can be started: the next SIGHUP will tell
        return
    if changed:
        log.event(
            CONFIG_CHANGED,
            f"{config.source} has changed and is not read again: restart mailproxy to use it",
            file=config.source,
        )
