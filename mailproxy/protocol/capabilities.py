"""What a server says that it can do, as its check has learnt it; and whether anybody can log in with that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import field, frozen

# Mechanisms that ordinary mail clients have. A Windows domain is needed for NTLM and GSSAPI, which Exchange announces
# beside LOGINDISABLED.
_MECHANISMS = frozenset({"PLAIN", "LOGIN", "CRAM-MD5", "DIGEST-MD5", "EXTERNAL", "XOAUTH2", "OAUTHBEARER"})
_SCRAM = "SCRAM-"


@frozen
class Capabilities:
    """The list of one connection, in upper case: names with their arguments.

    ``is_listed`` is False where the server gave no list, because it knows no command for it.
    """

    arguments: Mapping[str, tuple[str, ...]] = field(factory=dict)
    is_listed: bool = True

    @property
    def names(self) -> frozenset[str]:
        """The names alone."""
        return frozenset(self.arguments)

    @property
    def mechanisms(self) -> frozenset[str]:
        """The SASL mechanisms, in whichever way the protocol lists them.

        IMAP has ``AUTH=PLAIN`` (RFC 9051 section 6.1.1), SMTP ``AUTH PLAIN LOGIN`` (RFC 4954 section 3), old servers
        ``AUTH=PLAIN LOGIN``, POP3 and ManageSieve ``SASL PLAIN`` (RFC 5034 section 3, RFC 5804 section 1.7).
        """
        found = {name.removeprefix("AUTH=") for name in self.arguments if name.startswith("AUTH=")}
        for name, arguments in self.arguments.items():
            if name in ("AUTH", "SASL") or name.startswith("AUTH="):
                found.update(word for argument in arguments for word in argument.split())
        return frozenset(found)

    def __contains__(self, name: object) -> bool:
        return name in self.arguments


UNLISTED = Capabilities(is_listed=False)


def by_name(lines: Iterable[tuple[str, ...]]) -> Capabilities:
    """Make them of lines of words; a name that comes twice has the arguments of both."""
    arguments: dict[str, tuple[str, ...]] = {}
    for name, *words in lines:
        arguments[name] = arguments.get(name, ()) + tuple(words)
    return Capabilities(arguments)


def login_obstacle(protocol: str, capabilities: Capabilities, greeting: str = "") -> str | None:
    """Why no ordinary client can log in over a connection with these capabilities; None where one can, or may.

    ``protocol`` is the configuration's name of it. Nobody logs in over LMTP and few do over port 25, so that neither has
    an obstacle.
    """
    if not capabilities.is_listed:
        return None
    mechanisms = capabilities.mechanisms
    has_password = any(each in _MECHANISMS or each.startswith(_SCRAM) for each in mechanisms)
    match protocol:
        case "imap" if "LOGINDISABLED" in capabilities and not has_password:
            return "announces LOGINDISABLED"
        case "pop3" if "USER" not in capabilities and not has_password and "<" not in greeting:  # of APOP
            return "announces neither USER nor a SASL mechanism for passwords"
        case "submission" if not mechanisms:
            return "announces STARTTLS but no AUTH" if "STARTTLS" in capabilities else "announces no AUTH"
        case "sieve" if not mechanisms:
            return "announces no SASL mechanism"
    return None
