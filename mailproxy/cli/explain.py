"""``mailproxy explain``: reads the question from the command line, and prints the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import ip_address

import click

from mailproxy.app.explain import explain_offline
from mailproxy.cli.report import write_text
from mailproxy.config import Config
from mailproxy.proxy.explain import NoBindError, Question, ServerStateError


def run_explain(
    config: Config,
    *,
    client: str,
    port: int,
    bind: str,
    sni: str | None,
    alpn: Sequence[str],
    states: str,
    form: str,
) -> int:
    """Print the explanation, and return the exit code.

    Raises:
        UsageError: An option has no meaning for this configuration.
    """
    try:
        address = str(ip_address(client))
    except ValueError:
        raise click.UsageError(f"--client {client}: not an IP address") from None
    protocols = tuple(name for each in alpn for name in each.split(",") if name)
    question = Question(client=address, port=port, bind=bind, sni=sni or None, alpn=protocols)
    try:
        explanation, faults = explain_offline(config, question, _parse_states(states))
    except (NoBindError, ServerStateError) as error:
        raise click.UsageError(str(error)) from None
    write_text("fault", config.source_map.locate_all(faults), config.source)
    if form == "json":
        click.echo(json.dumps(explanation.to_json(), indent=2, ensure_ascii=False))
    else:
        click.echo(explanation.to_text(), nl=False)
    return 0


def _parse_states(text: str) -> dict[str, str]:
    """Return the states by server of ``d1=down,d2=drain``."""
    states = {}
    for item in filter(None, text.split(",")):
        server, equals, state = item.partition("=")
        if not equals:
            raise click.UsageError(f"--at {item}: SERVER=STATE is expected")
        states[server.strip()] = state.strip()
    return states
