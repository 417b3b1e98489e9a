"""State that outlives the process: what the operator set, health, stick tables.

Modules, in reading order:
    frontends: What the operator has set of frontends.
    value: The state as a value: captured from backends, and applied to backends.
    codec: Its lines of JSON.
    file: Reading and replacing the file.
    keeper: Takes the file up at the start, and writes it every minute and at the end.
"""

from mailproxy.proxy.state.frontends import FrontendsRecord
from mailproxy.proxy.state.keeper import StateKeeper, open_keeper, restore_state
from mailproxy.proxy.state.value import ProxyState

__all__ = ["FrontendsRecord", "ProxyState", "StateKeeper", "open_keeper", "restore_state"]
