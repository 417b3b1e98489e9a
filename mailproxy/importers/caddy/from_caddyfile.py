"""The layer4 servers of a Caddyfile."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mailproxy.importers.caddy.caddyfile import Segment
from mailproxy.importers.caddy.model import Certificates, Handler, Matcher, Option, Route, Server, Upstream
from mailproxy.importers.context import Context

_HOST = re.compile(r"(?:https?://)?((?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+)(?::\d+)?(?:/.*)?")

_OPTIONS = {
    "metrics": "[admin] http has metrics here, if you give it an address",
    "acme_dns": 'give challenge = "dns-01" and dns in [acme.caddy], if certificates are obtained',
    "key_type": "give keys in [acme.caddy], if certificates are obtained",
    "preferred_chains": "give preferred_chain in [acme.caddy], if certificates are obtained",
    "renewal_window_ratio": "give renew_before in [acme.caddy], if certificates are obtained",
    "grace_period": "is for HTTP in Caddy: sessions have drain_timeout of [process] here",
}


def read_caddyfile(segments: Sequence[Segment], context: Context, certificates: Certificates) -> list[Server]:
    """Return the layer4 servers of a Caddyfile.

    Args:
        segments: The segments of the file.
        context: Gets what is to report.
        certificates: Gets the certificates that sites and options name.
    """
    servers: list[Server] = []
    for segment in segments:
        if not segment.words and segment.block is not None:
            servers += _options(segment, context, certificates)
        elif (
            inner := next((each for each in segment.block or () if each.name == "layer4"), None)
        ) is not None:
            context.register(inner.place, "layer4")
            context.report.note(
                inner.place, "layer4", "Caddy refuses it in a site: it is read as a global option"
            )
            servers += list(_servers(inner, context))
            _site(segment, context, certificates)
        elif segment.name == "layer4":
            servers += list(_servers(segment, context))
        elif re.fullmatch(r"(tcp/)?[^/ ]*:\d+(-\d+)?", segment.name) and any(
            each.name == "route" for each in segment.block or ()
        ):
            servers.append(_server(segment, context))  # a part of a layer4 block
        else:
            _site(segment, context, certificates)
    return servers


def _options(segment: Segment, context: Context, certificates: Certificates) -> Iterator[Server]:
    for option in segment.block or ():
        context.register(option.place, option.name)
        if option.name == "layer4":
            context.settle(option.place)
            yield from _servers(option, context)
        elif option.name == "servers":
            yield from _wrappers(option, context)
        elif option.name in ("email", "acme_ca", "acme_ca_root", "http_port"):
            certificates.options[option.name] = Option(option.arguments, option.place, option.take_comments())
            context.settle(option.place)
        elif option.name == "acme_eab":
            context.settle(option.place)
            for each in option.block or ():
                context.register(each.place, each.name)
                context.settle(each.place)
                certificates.options[f"eab_{each.name}"] = Option(each.arguments, each.place)
        else:
            fact = _OPTIONS.get(option.name, "not needed: an option of Caddy itself or of HTTP")
            context.report.note(option.place, option.name, fact)


def _wrappers(option: Segment, context: Context) -> Iterator[Server]:
    """Yield the layer4 servers in front of HTTP ports."""
    for each in option.block or ():
        if each.name != "listener_wrappers":
            continue
        for wrapper in each.block or ():
            if wrapper.name == "layer4":
                listen = option.arguments or [":443"]
                context.report.note(
                    wrapper.place,
                    "listener_wrappers",
                    "connections that no route matches go to HTTP in Caddy, and are rejected here",
                )
                routes, timeout = _routes(wrapper.block or (), context)
                yield Server(
                    [Option([address], option.place) for address in listen[:1]], routes, option.place, timeout
                )
    context.settle(option.place)


def _site(segment: Segment, context: Context, certificates: Certificates) -> None:
    """Take the names and certificates of a site, which is HTTP."""
    names = [
        match[1]
        for word in segment.words
        for part in word.text.split(",")
        if (match := _HOST.fullmatch(part))
    ]
    tls = next((each for each in segment.block or () if each.name == "tls"), None)
    if tls is not None and tls.arguments == ["internal"]:
        certificates.internal.update(names)
    elif tls is not None and len(tls.arguments) == 1 and "@" in tls.arguments[0]:
        certificates.options.setdefault("email", Option(tls.arguments, tls.place))
    if tls is not None and len(tls.arguments) == 2:
        certificates.files.append((tls.arguments[0], tls.arguments[1], tls.place))
    elif not any(word.text.startswith("http://") for word in segment.words):
        for name in names:
            certificates.names.setdefault(name, segment.place)
    context.report.note(segment.place, "", "HTTP sites are left out, since mailproxy carries mail only")


def _servers(layer4: Segment, context: Context) -> Iterator[Server]:
    for segment in layer4.block or ():
        yield _server(segment, context)


def _server(segment: Segment, context: Context) -> Server:
    context.register(segment.place, segment.name)
    context.settle(segment.place)
    listen = [Option([part], word.place) for word in segment.words for part in word.text.split(",") if part]
    routes, timeout = _routes(segment.block or (), context)
    return Server(listen, routes, segment.place, timeout, segment.take_comments())


def _routes(segments: Sequence[Segment], context: Context) -> tuple[list[Route], Option | None]:
    named: dict[str, list[list[Matcher]]] = {}
    routes: list[Route] = []
    timeout: Option | None = None
    for segment in segments:
        context.register(segment.place, segment.name)
        if segment.name.startswith("@"):
            context.settle(segment.place)
            named.setdefault(segment.name, []).append(list(_matchers(segment, segment.words[1:], context)))
    for segment in segments:
        if segment.name == "route":
            context.settle(segment.place)
            sets = [matchers for name in segment.arguments for matchers in named.get(name, [])]
            for name in segment.arguments:
                if name not in named:
                    context.report.loss(
                        segment.place, "route", f"there is no matcher {name}, which Caddy refuses: left out"
                    )
            if segment.arguments and not sets:
                continue
            handlers = [_handler(each, context) for each in segment.block or ()]
            routes.append(Route(sets, handlers, segment.place, segment.take_comments()))
        elif segment.name == "matching_timeout":
            context.settle(segment.place)
            timeout = Option(segment.arguments, segment.place)
        elif not segment.name.startswith("@"):
            context.report.loss(
                segment.place, segment.name, "is no word of layer4 that is known here: left out"
            )
    return routes, timeout


def _matchers(segment: Segment, words: Sequence[object], context: Context) -> Iterator[Matcher]:
    """Yield the matchers of a named set: one on the same line, or several in braces."""
    del words
    if segment.arguments:
        yield _matcher(segment.arguments, segment, context)
        return
    for each in segment.block or ():
        context.register(each.place, each.name)
        context.settle(each.place)
        yield _matcher([each.name, *each.arguments], each, context)


def _matcher(words: Sequence[str], segment: Segment, context: Context) -> Matcher:
    name, rest = words[0], list(words[1:])
    if name == "not":
        inner: list[Matcher] = []
        if rest:
            inner = [_matcher(rest, Segment(segment.words, segment.place, segment.block), context)]
        else:
            for each in segment.block or ():
                context.register(each.place, each.name)
                context.settle(each.place)
                inner.append(_matcher([each.name, *each.arguments], each, context))
        return Matcher("not", {}, segment.place, [inner])
    options: dict[str, Option] = {}
    if name == "tls":
        if rest:
            options[rest[0]] = Option(rest[1:], segment.place)
        for each in segment.block or ():
            context.register(each.place, each.name)
            context.settle(each.place)
            options[each.name] = Option(each.arguments, each.place)
    else:
        options[""] = Option(rest, segment.place)
    return Matcher(name, options, segment.place)


def _handler(segment: Segment, context: Context) -> Handler:
    context.register(segment.place, segment.name)
    context.settle(segment.place)
    handler = Handler(segment.name, segment.place, comments=segment.take_comments())
    if segment.name == "subroute":
        handler.routes, _ = _routes(segment.block or (), context)
        return handler
    if segment.name == "proxy":
        handler.upstreams = [Upstream([word.text], word.place) for word in segment.words[1:]]
    elif segment.arguments:
        handler.options[""] = Option(segment.arguments, segment.place)
    for each in segment.block or ():
        context.register(each.place, each.name)
        if each.name == "upstream":
            context.settle(each.place)
            handler.upstreams += _upstreams(each, context)
        else:
            handler.options[each.name] = Option(each.arguments, each.place, each.take_comments())
            if each.block is not None:
                _flatten(each.block, each.name, handler.options, context)
    return handler


def _flatten(segments: Sequence[Segment], prefix: str, options: dict[str, Option], context: Context) -> None:
    """Add the options in a block: ``connection_policy { alpn imap }`` as ``connection_policy.alpn``."""
    for each in segments:
        context.register(each.place, each.name)
        name = f"{prefix}.{each.name}"
        options[name] = Option(each.arguments, each.place, each.take_comments())
        if each.block is not None:
            _flatten(each.block, name, options, context)


def _upstreams(segment: Segment, context: Context) -> list[Upstream]:
    options: dict[str, Option] = {}
    dials = list(segment.arguments)
    for each in segment.block or ():
        context.register(each.place, each.name)
        if each.name == "dial":
            context.settle(each.place)
            dials += each.arguments
        else:
            options[each.name] = Option(each.arguments, each.place, each.take_comments())
            if each.block is not None:
                _flatten(each.block, each.name, options, context)
    return [Upstream(dials, segment.place, options, segment.take_comments())]
