"""Explain: which frontend, bind, route, certificate, backend and server a client would get, and why.

The decisions are those of sessions: the same routes, certificates, limits and pools are asked, in the order of
``Session.run``. Nothing is counted and no turn is taken.

Modules, in reading order:
    question: the client, and the proxy that it would meet.
    explanation: the answer, as sentences and as a value.
    walk: goes with the client from the bind to the backend.
    server_choice: goes on from the backend to the server.
    connection: what the server would get.
    offline: the proxy of a configuration that does not run.
"""

from mailproxy.proxy.explain.explanation import Explanation
from mailproxy.proxy.explain.offline import ServerStateError, offline_view
from mailproxy.proxy.explain.question import FrontendView, NoBindError, Question, View
from mailproxy.proxy.explain.walk import explain

__all__ = [
    "Explanation",
    "FrontendView",
    "NoBindError",
    "Question",
    "ServerStateError",
    "View",
    "explain",
    "offline_view",
]
