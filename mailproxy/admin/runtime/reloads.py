"""Commands about the configuration: use the file as it is now, and how the last reload went."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from mailproxy.admin.runtime.call import Call, CommandError
from mailproxy.errors import ConfigError
from mailproxy.proxy.reload.result import fault_lines


async def reload(call: Call, *_: str) -> str:
    """Answer ``reload``: a line for each change, or for each fault."""
    try:
        reloaded = await call.target.reload()
    except ConfigError as error:
        raise CommandError("\n".join(fault_lines(error))) from None
    return "".join(f"{line}\n" for line in reloaded.answer)


def show_reload(call: Call, *_: str) -> str:
    """Answer ``show reload``: the last reload, how many there were, and which configuration each process has."""
    return "".join(f"{line}\n" for line in _describe(call))


def _describe(call: Call) -> Iterator[str]:
    reloads = call.target.reloads
    last = reloads.last
    if last is None:
        yield "last: none"
    else:
        at = datetime.fromtimestamp(last.at).astimezone().isoformat(timespec="milliseconds")
        yield f"last: {at} by {last.trigger}, {'made' if last.is_made else 'failed'}"
        yield from (f"  {line}" for line in last.lines)
    yield f"made: {reloads.made}"
    yield f"failed: {reloads.failed}"
    for process, generation in call.target.generations.items():
        yield f"{process}: generation {generation}"
