"""Whether clients can log in over the connections of sessions, by what a check has seen."""

from __future__ import annotations

from mailproxy import config
from mailproxy.config.check_plan import MAIL, Probe
from mailproxy.protocol.capabilities import login_obstacle
from mailproxy.protocol.checks.mail import MailCheck
from mailproxy.proxy.backend.server import Login

_TO_DOVECOT = (
    'give send_proxy = "v2-ssl" (Dovecot: haproxy = yes for the listener, and haproxy_trusted_networks), or tls and a port '
    "that speaks it"
)
_TO_POSTFIX = (
    "give tls and a port that speaks it (Postfix: a service with smtpd_tls_wrappermode = yes, since no PROXY header tells it of "
    'TLS), or to Dovecot send_proxy = "v2-ssl" with haproxy_trusted_networks'
)


def login_of(server: config.Server, probe: Probe, dialogue: MailCheck) -> Login:
    """Return what the dialogue of a passed check shows of logging in."""
    protocol = probe.protocol if probe.protocol in MAIL else probe.kind
    fact = login_obstacle(protocol, dialogue.capabilities, dialogue.greeting)
    if fact is None:
        return Login(dialogue.capabilities, "")
    if server.tls is not None:
        return Login(
            dialogue.capabilities, f"{fact} over TLS, so no client can log in: look at the server's settings"
        )
    remedy = _TO_POSTFIX if protocol == "submission" else _TO_DOVECOT
    return Login(
        dialogue.capabilities,
        f'{fact} in clear text, so no client of a bind with mode = "tls" can log in: {remedy}',
    )
