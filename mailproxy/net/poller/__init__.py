"""Readiness of the sessions' sockets: one epoll object for all of them.

It is served inside trio's wait for I/O (``io_wait``), or by one task where that is not possible.

A session registers each of its sockets once, edge-triggered, for the socket's whole life. What happens at a
socket goes to one of these:

* A *watch* serves the task of a session: it wakes the task that waits at the socket, and reports a client
  that closes.
* An *event handler* gets every event as a plain call. The relay sets one when the session becomes a tunnel.

``set_handler`` replaces the watch. That costs no system call, while ``trio.lowlevel.wait_readable`` takes one or two
system calls and a task switch for every wait.

Edge-triggered means that epoll reports each change once (epoll(7)). So a task waits only after it has found
the socket drained (or full), and a new handler looks at the events that the watch has noted, or tries the
socket.

A watch also makes the steps of TLS handshakes (``repeat``), those of all sessions in a row after the events of a turn
(``Poller.queue_step``).

Without epoll, ``TrioPoller`` does the same with trio's own waits. It does not notice a client that closes.

Modules, in reading order:
    timers: Calls at a time of trio's clock.
    events: Events of epoll, and the protocols of what gets them.
    watch: Watches of sockets.
    io_wait: The wait in place of trio's own.
    poller: The poller.
    trio_poller: What replaces it without epoll.
"""

from mailproxy.net.poller.events import (
    BOTH_WAYS,
    ERR,
    GONE,
    HUP,
    IN,
    OUT,
    PRI,
    RDHUP,
    READING,
    Deferred,
    EventHandler,
)
from mailproxy.net.poller.poller import Poller
from mailproxy.net.poller.trio_poller import TRIO, AnyPoller, TrioPoller, open_poller
from mailproxy.net.poller.watch import EpollWatch, ListenerWatch, TrioWatch, Watch

__all__ = [
    "BOTH_WAYS",
    "ERR",
    "GONE",
    "HUP",
    "IN",
    "OUT",
    "PRI",
    "RDHUP",
    "READING",
    "TRIO",
    "AnyPoller",
    "Deferred",
    "EpollWatch",
    "EventHandler",
    "ListenerWatch",
    "Poller",
    "TrioPoller",
    "TrioWatch",
    "Watch",
    "open_poller",
]
