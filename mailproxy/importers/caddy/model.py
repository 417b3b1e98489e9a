"""What both forms of Caddy's configuration say about layer4: servers, routes, matchers, handlers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import define, field

from mailproxy.importers.place import NO_COMMENTS, Comments, Place


@define
class Option:
    """An option with its values, by the name that the Caddyfile has."""

    values: list[str]
    place: Place
    comments: Comments = NO_COMMENTS

    @property
    def value(self) -> str:
        """The first value; empty if there is none."""
        return self.values[0] if self.values else ""

    def take_comments(self) -> Comments:
        """Return the comments at the first call, and none afterwards."""
        comments, self.comments = self.comments, NO_COMMENTS
        return comments


@define
class Matcher:
    """One matcher of a set, with its conditions; for ``not``, the sets of which none may match."""

    name: str
    options: Mapping[str, Option]
    place: Place
    sets: Sequence[Sequence[Matcher]] = ()


@define
class Handler:
    """A handler with its options; ``proxy`` has upstreams, ``subroute`` has routes."""

    name: str
    place: Place
    options: dict[str, Option] = field(factory=dict)
    upstreams: list[Upstream] = field(factory=list)
    routes: list[Route] = field(factory=list)
    comments: Comments = NO_COMMENTS

    def take_comments(self) -> Comments:
        """Return the comments at the first call, and none afterwards."""
        comments, self.comments = self.comments, NO_COMMENTS
        return comments


@define
class Upstream:
    """An upstream of a proxy, with its addresses."""

    dials: list[str]
    place: Place
    options: dict[str, Option] = field(factory=dict)
    comments: Comments = NO_COMMENTS

    def take_comments(self) -> Comments:
        """Return the comments at the first call, and none afterwards."""
        comments, self.comments = self.comments, NO_COMMENTS
        return comments


@define
class Route:
    """A route: it matches if all matchers of one of its sets do; without sets it always matches."""

    sets: list[list[Matcher]]
    handlers: list[Handler]
    place: Place
    comments: Comments = NO_COMMENTS


@define
class Server:
    """A layer4 server."""

    listen: list[Option]
    routes: list[Route]
    place: Place
    matching_timeout: Option | None = None
    comments: Comments = NO_COMMENTS

    def take_comments(self) -> Comments:
        """Return the comments at the first call, and none afterwards."""
        comments, self.comments = self.comments, NO_COMMENTS
        return comments


@define
class Certificates:
    """Where Caddy has certificates from.

    Attributes:
        files: Certificate and key, with their place.
        names: The names that Caddy obtains certificates for.
        options: The global options ``email``, ``acme_ca``, ``acme_ca_root``, ``http_port``, and ``eab_key_id``, which
            is in the block of ``acme_eab``.
        internal: The names whose certificates Caddy's own CA issues.
    """

    files: list[tuple[str, str, Place]] = field(factory=list)
    names: dict[str, Place] = field(factory=dict)
    options: dict[str, Option] = field(factory=dict)
    internal: set[str] = field(factory=set)
