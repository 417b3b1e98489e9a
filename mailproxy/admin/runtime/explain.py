"""``explain``: what a client would get from the running proxy, in its present state."""

from __future__ import annotations

import json
from ipaddress import ip_address

from mailproxy.admin.runtime.call import Call, CommandError
from mailproxy.proxy.explain import NoBindError, Question, explain

_KEYS = ("client", "port", "bind", "sni", "alpn", "format")
_USAGE = "Usage: explain client=ADDR port=N [bind=NAME] [sni=NAME] [alpn=NAME,...] [format=json]"


def explain_client(call: Call, *words: str) -> str:
    """Answer ``explain client=ADDR port=N [bind=NAME] [sni=NAME] [alpn=NAME,...] [format=json]``."""
    values = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in _KEYS or key in values:
            raise CommandError(f"Unexpected {word!r}. {_USAGE}")
        values[key] = value
    try:
        explanation = explain(call.target.view, _question(values))
    except NoBindError as error:
        raise CommandError(str(error)) from None
    if values.get("format", "text") == "json":
        return f"{json.dumps(explanation.to_json(), ensure_ascii=False)}\n"
    return explanation.to_text()


def _question(values: dict[str, str]) -> Question:
    try:
        client = str(ip_address(values["client"]))
        port = int(values["port"])
    except (KeyError, ValueError):
        raise CommandError(f"An IP address and a port are expected. {_USAGE}") from None
    return Question(
        client=client,
        port=port,
        bind=values.get("bind", ""),
        sni=values.get("sni") or None,
        alpn=tuple(filter(None, values.get("alpn", "").split(","))),
    )
