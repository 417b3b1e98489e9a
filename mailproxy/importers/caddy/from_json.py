"""The layer4 servers of Caddy's JSON."""

from __future__ import annotations

from collections.abc import Mapping

from mailproxy.config.units import write_duration
from mailproxy.importers.caddy.model import Certificates, Handler, Matcher, Option, Route, Server, Upstream
from mailproxy.importers.context import Context
from mailproxy.importers.node import Node

# The options of the Caddyfile, by their paths in JSON.
_PROXY = {
    "lb_policy": ("load_balancing", "selection", "policy"),
    "lb_choose": ("load_balancing", "selection", "choose"),
    "lb_weights": ("load_balancing", "selection", "weights"),
    "lb_try_duration": ("load_balancing", "try_duration"),
    "lb_try_interval": ("load_balancing", "try_interval"),
    "health_interval": ("health_checks", "active", "interval"),
    "health_timeout": ("health_checks", "active", "timeout"),
    "health_port": ("health_checks", "active", "port"),
    "health_fall": ("health_checks", "active", "fails"),
    "health_rise": ("health_checks", "active", "passes"),
    "health_uri": ("health_checks", "active", "uri"),
    "fail_duration": ("health_checks", "passive", "fail_duration"),
    "max_fails": ("health_checks", "passive", "max_fails"),
    "unhealthy_connection_count": ("health_checks", "passive", "unhealthy_connection_count"),
    "proxy_protocol": ("proxy_protocol",),
    "local_addr": ("local_addr",),
    "resolver_preference": ("resolver_preference",),
}
_TLS = {
    "tls_insecure_skip_verify": ("insecure_skip_verify",),
    "tls_server_name": ("server_name",),
    "tls_client_auth": ("client_certificate_file",),
    "tls_client_key": ("client_certificate_key_file",),
    "tls_trust_pool": ("root_ca_pem_files",),
    "tls_trust_pool_files": ("ca", "pem_files"),
    "tls_curves": ("curves",),
}
_DURATIONS = ("duration", "interval", "timeout", "fail_duration", "lb_try_duration", "lb_try_interval")
_NANOSECONDS = 1e9


def read_json(root: Node, context: Context, certificates: Certificates) -> list[Server]:
    """Return the layer4 servers of a JSON configuration.

    Args:
        root: The whole value.
        context: Gets what is to report.
        certificates: Gets the certificates that are loaded or obtained.
    """
    apps = root.get("apps") or root
    for name, node in apps.entries().items():
        context.register(node.place, name)
        if name == "http":
            context.report.note(node.place, "http", "HTTP is left out, since mailproxy carries mail only")
            _sites(node, certificates)
        elif name == "tls":
            context.settle(node.place)
            _certificates(node, certificates)
        elif name == "layer4" or (apps is root and name == "servers"):
            context.settle(node.place)
        else:
            context.report.note(node.place, name, "is no part of layer4: left out")
    servers = apps.entries("layer4", "servers") or root.entries("servers")
    return [_server(node, context) for node in servers.values()]


def _sites(http: Node, certificates: Certificates) -> None:
    if (port := http.get("http_port")) is not None:
        certificates.options["http_port"] = Option(port.texts, port.place)
    for server in http.entries("servers").values():
        for route in server.items("routes"):
            for match in route.items("match"):
                for host in match.items("host"):
                    certificates.names.setdefault(host.text, host.place)


def _certificates(tls: Node, certificates: Certificates) -> None:
    for each in tls.items("certificates", "load_files"):
        certificate, key = each.get("certificate"), each.get("key")
        if certificate is not None:
            certificates.files.append((certificate.text, "" if key is None else key.text, each.place))
    for name in tls.items("certificates", "automate"):
        certificates.names.setdefault(name.text, name.place)
    for policy in tls.items("automation", "policies"):
        for name in policy.items("subjects"):
            certificates.names.setdefault(name.text, name.place)
        for issuer in policy.items("issuers"):
            module = issuer.get("module")
            if module is not None and module.text == "internal":
                certificates.internal.update(name.text for name in policy.items("subjects"))
            for path, option in (
                (("ca",), "acme_ca"),
                (("email",), "email"),
                (("trusted_roots_pem_files",), "acme_ca_root"),
                (("challenges", "http", "alternate_port"), "http_port"),
                (("external_account", "key_id"), "eab_key_id"),
            ):
                value = issuer.get(*path)
                if value is not None:
                    certificates.options[option] = Option(value.texts, value.place)


def _server(node: Node, context: Context) -> Server:
    context.register(node.place, "server")
    context.settle(node.place)
    listen = [Option([each.text], each.place) for each in node.items("listen")]
    timeout = node.get("matching_timeout")
    option = None if timeout is None else _option("matching_timeout", timeout)
    _unknown(node, ("listen", "routes", "matching_timeout"), context)
    return Server(listen, [_route(each, context) for each in node.items("routes")], node.place, option)


def _unknown(node: Node, known: tuple[str, ...], context: Context) -> None:
    for name, each in node.entries().items():
        if name not in known:
            context.register(each.place, name)
            context.report.loss(each.place, name, "is no word of layer4 that is known here: left out")


def _route(node: Node, context: Context) -> Route:
    context.register(node.place, "route")
    context.settle(node.place)
    sets = [
        [_matcher(name, each, context) for name, each in match.entries().items()]
        for match in node.items("match")
    ]
    return Route(sets, [_handler(each, context) for each in node.items("handle")], node.place)


def _matcher(name: str, node: Node, context: Context) -> Matcher:
    context.register(node.place, name)
    context.settle(node.place)
    if name == "not":
        sets = node.value if isinstance(node.value, list) else [node]
        return Matcher(
            "not",
            {},
            node.place,
            [[_matcher(key, each, context) for key, each in one.entries().items()] for one in sets],
        )
    if name == "tls":
        return Matcher(
            name, {key: Option(each.texts, each.place) for key, each in node.entries().items()}, node.place
        )
    ranges = node.get("ranges")
    return Matcher(name, {"": Option([] if ranges is None else ranges.texts, node.place)}, node.place)


def _handler(node: Node, context: Context) -> Handler:
    name = node.get("handler")
    handler = Handler("" if name is None else name.text, node.place)
    context.register(node.place, handler.name)
    context.settle(node.place)
    if handler.name == "subroute":
        handler.routes = [_route(each, context) for each in node.items("routes")]
        return handler
    if handler.name == "proxy":
        handler.options = _options(node, _PROXY, context)
        handler.upstreams = [_upstream(each, context) for each in node.items("upstreams")]
        return handler
    for key, each in node.entries().items():
        if key == "connection_policies":
            for policy in each.value if isinstance(each.value, list) else []:
                _flatten(policy, "connection_policy", handler.options, context)
        elif key != "handler":
            context.register(each.place, key)
            handler.options[key] = _option(key, each)
    return handler


def _flatten(node: Node, prefix: str, options: dict[str, Option], context: Context) -> None:
    names = {"protocol_min": "protocols", "cipher_suites": "ciphers"}
    for key, each in node.entries().items():
        context.register(each.place, key)
        name = f"{prefix}.{names.get(key, key)}"
        options[name] = _option(key, each)
        if isinstance(each.value, dict):
            _flatten(each, name, options, context)


def _options(node: Node, paths: Mapping[str, tuple[str, ...]], context: Context) -> dict[str, Option]:
    options = {}
    known = {path[0] for path in paths.values()} | {"handler", "upstreams"}
    _unknown(node, tuple(known), context)
    for name, path in paths.items():
        each = node.get(*path)
        if each is not None:
            context.register(each.place, name)
            options[name] = _option(name, each)
    if node.get("health_checks", "active") is not None and "health_interval" not in options:
        active = node.get("health_checks", "active")
        options["health_interval"] = Option(["30s"], node.place if active is None else active.place)
    if "lb_choose" in options and "lb_policy" in options:
        options["lb_policy"].values += options.pop("lb_choose").values
    if "lb_weights" in options and "lb_policy" in options:
        options["lb_policy"].values += options.pop("lb_weights").values
    return options


def _option(name: str, node: Node) -> Option:
    """Return an option; durations in JSON may be a number of nanoseconds."""
    is_duration = name.endswith(_DURATIONS)
    if is_duration and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        seconds = node.value / _NANOSECONDS
        return Option([write_duration(seconds) if 0 < seconds < 1e9 else "0"], node.place)
    return Option(node.texts, node.place)


def _upstream(node: Node, context: Context) -> Upstream:
    context.register(node.place, "upstream")
    context.settle(node.place)
    options: dict[str, Option] = {}
    _unknown(node, ("dial", "tls", "max_connections"), context)
    if (limit := node.get("max_connections")) is not None:
        context.register(limit.place, "max_connections")
        options["max_connections"] = _option("max_connections", limit)
    tls = node.get("tls")
    if tls is not None:
        context.register(tls.place, "tls")
        options["tls"] = Option([], tls.place)
        for name, path in _TLS.items():
            each = tls.get(*path)
            if each is not None and each.text != "false":
                context.register(each.place, name)
                options[name] = Option(each.texts, each.place)
        _unknown(tls, tuple(path[0] for path in _TLS.values()), context)
    return Upstream([text for each in node.items("dial") for text in each.texts], node.place, options)
