"""Which open socket a bind of the next configuration takes: at a reload, at a hand-over, at a restart."""

from __future__ import annotations

from collections.abc import Sequence

from mailproxy.config import Config


def match_binds(config: Config, current: Sequence[tuple[str, str]]) -> dict[tuple[str, int], int]:
    """Find the open socket of each bind: that of its own frontend, else of another one with the same address.

    Args:
        config: The next configuration.
        current: The frontend and the address of each open socket, as the configuration has them. The frontend
            may be empty if it is not known.

    Returns:
        The index in ``current``, by frontend and index of the bind, for the binds that have one.
    """
    free = list(range(len(current)))
    matches: dict[tuple[str, int], int] = {}
    for is_own in (True, False):
        for name, frontend in config.frontends.items():
            for index, bind in enumerate(frontend.bind):
                if (name, index) in matches:
                    continue
                address = str(bind.address)
                for each in free:
                    if current[each][1] == address and (current[each][0] == name or not is_own):
                        matches[name, index] = each
                        free.remove(each)
                        break
    return matches
