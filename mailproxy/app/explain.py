"""``mailproxy explain``: what a client would get from a configuration that does not run."""

from __future__ import annotations

from collections.abc import Mapping

from mailproxy.certificates.loader import load_certificates
from mailproxy.config import Config
from mailproxy.errors import Fault
from mailproxy.proxy.explain import Explanation, Question, explain, offline_view


def explain_offline(
    config: Config, question: Question, states: Mapping[str, str]
) -> tuple[Explanation, list[Fault]]:
    """Explain a question with nothing but the configuration and its TLS files.

    Args:
        config: The configuration.
        question: The client.
        states: States of servers; see `offline_view`.

    Returns:
        The explanation, and the faults of TLS files. These need not be readable, only the answer lacks what is
        in them.

    Raises:
        NoBindError: No bind fits the question, or several do.
        ServerStateError: There is no such server or state.
    """
    store = load_certificates(config)
    return explain(offline_view(config, store, states), question), store.faults
