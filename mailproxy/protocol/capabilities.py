"""The capabilities that a server lists, and whether clients can log in with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import field, frozen

# Mechanisms that ordinary mail clients have. NTLM and GSSAPI, which Exchange announces beside LOGINDISABLED,
# need a Windows domain.
_MECHANISMS = frozenset({"PLAIN", "LOGIN", "CRAM-MD5", "DIGEST-MD5", "EXTERNAL", "XOAUTH2", "OAUTHBEARER"})
_SCRAM = "SCRAM-"

LISTED_MAX = 4096
"""Characters of a list that is kept. The longest real ones have about 1,000."""


@frozen
class Capabilities:
    """The list of one connection.

    Attributes:
        arguments: The arguments of each name, in upper case.
        is_listed: False if the server gave no list, because it does not know the command.
        lines: Each name with its arguments, as the server wrote them.
    """

    arguments: Mapping[str, tuple[str, ...]] = field(factory=dict)
    is_listed: bool = True
    lines: tuple[tuple[str, ...], ...] = field(default=(), eq=False)

    @property
    def names(self) -> frozenset[str]:
        """The names without arguments."""
        return frozenset(self.arguments)

    @property
    def mechanisms(self) -> frozenset[str]:
        """The SASL mechanisms, in any of the forms in which protocols list them.

        IMAP has ``AUTH=PLAIN`` (RFC 9051 section 6.1.1), SMTP ``AUTH PLAIN LOGIN`` (RFC 4954 section 3), old
        servers ``AUTH=PLAIN LOGIN``, POP3 and ManageSieve ``SASL PLAIN`` (RFC 5034 section 3, RFC 5804
        section 1.7).
        """
        mechanisms = {name.removeprefix("AUTH=") for name in self.arguments if name.startswith("AUTH=")}
        for name, arguments in self.arguments.items():
            if name in ("AUTH", "SASL") or name.startswith("AUTH="):
                mechanisms.update(word for argument in arguments for word in argument.split())
        return frozenset(mechanisms)

    def __contains__(self, name: object) -> bool:
        return name in self.arguments


UNLISTED = Capabilities(is_listed=False)


def by_name(lines: Iterable[tuple[str, ...]]) -> Capabilities:
    """Make capabilities of lines, each a name and its arguments; lines of one name are joined."""
    lines = tuple(lines)
    arguments: dict[str, tuple[str, ...]] = {}
    for name, *words in lines:
        upper = name.upper()
        arguments[upper] = arguments.get(upper, ()) + tuple(word.upper() for word in words)
    return Capabilities(arguments, lines=lines)


def bounded_list(lines: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Return the first of these lines, at most LISTED_MAX characters of them."""
    total, kept = 0, []
    for words in lines:
        total += sum(map(len, words)) + len(words)
        if total > LISTED_MAX:
            break
        kept.append(words)
    return tuple(kept)


def login_obstacle(protocol: str, capabilities: Capabilities, greeting: str = "") -> str | None:
    """Return why no ordinary client can log in over this connection; None if clients can, or may be able to.

    LMTP has no login and few clients log in over port 25, so neither of these protocols has an obstacle.

    Args:
        protocol: The protocol by its name in the configuration.
        capabilities: What the server listed on this connection.
        greeting: The server's greeting. In POP3, a timestamp in it announces APOP (RFC 1939 section 7).
    """
    if not capabilities.is_listed:
        return None
    mechanisms = capabilities.mechanisms
    has_password = any(each in _MECHANISMS or each.startswith(_SCRAM) for each in mechanisms)
    match protocol:
        case "imap" if "LOGINDISABLED" in capabilities and not has_password:
            return "announces LOGINDISABLED"
        case "pop3" if "USER" not in capabilities and not has_password and "<" not in greeting:
            return "announces neither USER nor a SASL mechanism for passwords"
        case "submission" if not mechanisms:
            return "announces STARTTLS but no AUTH" if "STARTTLS" in capabilities else "announces no AUTH"
        case "sieve" if not mechanisms:
            return "announces no SASL mechanism"
    return None
