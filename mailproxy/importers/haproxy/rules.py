"""Rules of a frontend: routes, networks that are rejected, and limits per client."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attrs import define, field

from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table
from mailproxy.importers.haproxy.acl import (
    Branch,
    Condition,
    ConditionError,
    Conditions,
    Term,
    join,
    read_beside,
)
from mailproxy.importers.haproxy.lexer import Line
from mailproxy.importers.haproxy.proxies import Proxy
from mailproxy.importers.haproxy.values import duration
from mailproxy.importers.names import PatternError, names_of, settled_name
from mailproxy.importers.place import Origin, Word

_MAP = re.compile(
    r"%\[(req\.ssl_sni|req_ssl_sni|ssl_fc_sni)(?:,lower)?,map(?:_(str|dom|end|reg|beg|sub))?\(([^,)]+)(?:,([^)]*))?\)\]"
)
_LEFT_OUT = "the rule is left out"


@define
class Rules:
    """The rules of a frontend in translation.

    Attributes:
        routes: The routes so far.
        guard: What every later route asks for, too, because other sessions are dealt with already.
        accepted: The conditions of sessions that no later tcp-request rule applies to.
        fallback: The backend of sessions that match no route.
        needs_hello: The rules that ask for the ClientHello.
        accept_proxy: The networks of ``expect-proxy``, with the rule.
    """

    context: Context
    conditions: Conditions
    frontend: Table
    proxies: Mapping[str, Proxy]
    own: Proxy
    routes: list[Table] = field(factory=list)
    guard: Condition = field(factory=Condition)
    accepted: list[Condition] = field(factory=list)
    fallback: tuple[str, Line] | None = None
    rejects_others: bool = False
    needs_hello: list[Line] = field(factory=list)
    accept_proxy: tuple[list[str], Line] | None = None
    table: Line | None = None

    def loss(self, line: Line, fact: str) -> None:
        """Report a rule that is not translated."""
        self.context.report.loss(line.place, self.context.name_of(line.place), fact)


def translate_rules(proxy: Proxy, frontend: Table, proxies: Mapping[str, Proxy], context: Context) -> Rules:
    """Translate the rules of a frontend, in the order in which HAProxy applies them."""
    rules = Rules(context, Conditions(proxy.all("acl")), frontend, proxies, proxy)
    for line in proxy.all("acl"):
        context.settle(line.place)
    connection = [line for line in proxy.rules if line.arguments[:1] in (["connection"], ["session"])]
    content = [line for line in proxy.rules if line.arguments[:1] == ["content"]]
    for line in (*connection, *content):
        _request_rule(rules, line)
        rules.accepted = [] if line is (connection or content)[-1] else rules.accepted
    for line in proxy.all("use_backend"):
        _use_backend(rules, line)
    default = proxy.single.get("default_backend")
    if default is not None and len(default.words) > 1 and rules.fallback is None:
        rules.fallback = (default.words[1].text, default)
    elif proxy.kind == "listen" and rules.fallback is None:
        rules.fallback = (proxy.name, proxy.head)
    _fall_back(rules)
    return rules


def _split_rule(line: Line, skip: int) -> tuple[list[Word], list[Word]]:
    """Return the words of an action and those of its condition, from ``if`` or ``unless`` on."""
    words = line.words[skip:]
    at = next((index for index, word in enumerate(words) if word.text in ("if", "unless")), len(words))
    return list(words[:at]), list(words[at:])


def _request_rule(rules: Rules, line: Line) -> None:
    action, condition = _split_rule(line, 2)
    name = action[0].text if action else ""
    rules.context.settle(line.place)
    if re.fullmatch(r"track-sc[0-9]+|sc[0-9-]+.*", name):
        _track(rules, line, action)
        return
    if name == "expect-proxy":
        _expect_proxy(rules, line, condition)
        return
    if name not in ("accept", "reject"):
        if name in ("set-mark", "set-tos", "silent-drop", "send-spoe-group", "set-var", "capture") or name:
            rules.loss(line, f"{name} is not here: {_LEFT_OUT}")
        return
    try:
        branches = rules.conditions.parse(condition)
    except PatternError as error:
        rules.loss(line, f"{error}: {_LEFT_OUT}")
        return
    for branch in branches:
        try:
            _accept(rules, branch) if name == "accept" else _reject(rules, line, branch)
        except PatternError as error:
            rules.loss(line, f"{error}: {_LEFT_OUT}")


def _accept(rules: Rules, branch: Branch) -> None:
    for condition in _positive(branch):
        if condition.values:
            rules.accepted.append(condition)


def _reject(rules: Rules, line: Line, branch: Branch) -> None:
    if any(term.alternatives[0].special in ("conn_cur", "conn_rate") for term in branch):
        _limit(rules, line, branch)
        return
    if len(branch) == 1 and branch[0].is_negated:
        _guard(rules, branch[0])
        return
    for condition in _positive(branch):
        if not condition.values and rules.accepted:
            _guard(rules, Term(tuple(rules.accepted), is_negated=True))
            continue
        if rules.accepted and condition.values:
            raise ConditionError("an accept rule before it exempts clients, which routes cannot say")
        _add_route(rules, line, condition, None)


def _positive(branch: Branch) -> list[Condition]:
    """Return the conditions that a branch means.

    Raises:
        ConditionError: A term is negated, or one that routes do not have.
    """
    found = [Condition()]
    for term in branch:
        if term.is_negated:
            if all(each.special == "never" for each in term.alternatives):
                continue
            raise ConditionError("the opposite of a condition beside others is not here")
        joined: list[Condition] = []
        for each in term.alternatives:
            if each.special == "never":
                continue
            if each.special in ("always", "hello"):
                joined += found
                continue
            if each.special is not None:
                raise ConditionError("counters decide over limits per client only")
            joined += [both for one in found if (both := join(one, each)) is not None]
        found = joined
    return found


def _guard(rules: Rules, term: Term) -> None:
    """Let every later route ask for a condition, because other sessions are rejected or go elsewhere."""
    conditions = _positive([Term(term.alternatives, is_negated=False)])
    if all(each.special == "hello" for each in term.alternatives):
        return
    joined = conditions[0] if len(conditions) == 1 else _union(conditions)
    both = join(rules.guard, joined)
    if both is None:
        raise ConditionError("it contradicts a rule before it")
    rules.guard = both
    rules.rejects_others = True


def _union(conditions: Sequence[Condition]) -> Condition:
    keys = {tuple(each.values) for each in conditions}
    if len(keys) != 1 or len(next(iter(keys))) != 1:
        raise ConditionError("the opposite of several conditions is not here")
    (key,) = next(iter(keys))
    return Condition({key: tuple(dict.fromkeys(value for each in conditions for value in each.values[key]))})


def _add_route(rules: Rules, line: Line, condition: Condition, backend: str | None) -> None:
    both = join(rules.guard, condition)
    if both is None:
        rules.context.report.note(
            line.place, rules.context.name_of(line.place), "never holds after the rules before it: left out"
        )
        return
    if any(str(name).startswith("*.") for name in both.values.get("sni", ())):
        rules.loss(line, "matches names with any number of labels in HAProxy, and *. is exactly one here")
    row = Table(place=line.place, comments=line.take_comments())
    for key, values in both.values.items():
        row.set(key, list(values), Origin(line.place))
        if key in ("sni", "alpn"):
            rules.needs_hello.append(line)
    if backend is None:
        row.set("reject", True, Origin(line.place))
    else:
        row.set("backend", settled_name(backend), Origin(line.place))
    rules.routes.append(row)


def _use_backend(rules: Rules, line: Line) -> None:
    action, condition = _split_rule(line, 1)
    rules.context.settle(line.place)
    if not action:
        rules.loss(line, "has no backend, which HAProxy refuses: left out")
        return
    name = action[0].text
    if name.startswith("%["):
        _use_map(rules, line, name, condition)
        return
    if name not in rules.proxies:
        rules.loss(line, f"there is no TCP backend {name} in these files: {_LEFT_OUT}")
        return
    try:
        branches = rules.conditions.parse(condition)
        for branch in branches:
            if not branch and rules.fallback is None:
                rules.fallback = (name, line)
            elif len(branch) == 1 and branch[0].is_negated and len(branches) == 1:
                _guard(rules, branch[0])
                rules.fallback = (name, line)
                _default_for_guarded(rules)
            else:
                for each in _positive(branch):
                    _add_route(rules, line, each, name)
    except PatternError as error:
        rules.loss(line, f"{error}: {_LEFT_OUT}")


def _default_for_guarded(rules: Rules) -> None:
    """Send sessions for which the condition of ``unless`` holds to the default backend, by a route."""
    default = rules.own.single.get("default_backend")
    if default is not None and len(default.words) > 1:
        rules.context.settle(default.place)
        _add_route(rules, default, Condition(), default.words[1].text)
    rules.guard = Condition()
    rules.rejects_others = False


def _use_map(rules: Rules, line: Line, text: str, condition: Sequence[Word]) -> None:
    match = _MAP.fullmatch(text)
    if match is None or condition:
        rules.loss(line, f"a backend by {text} is not here: {_LEFT_OUT}")
        return
    method, file, default = match[2] or "str", match[3], match[4]
    try:
        content = read_beside(file, line.place)
    except PatternError as error:
        rules.loss(line, f"{error}: {_LEFT_OUT}")
        return
    backends: dict[str, list[str]] = {}
    for raw in content.splitlines():
        words = raw.split()
        if len(words) < 2 or words[0].startswith("#"):
            continue
        try:
            backends.setdefault(words[1], []).extend(names_of(method, words[0]))
        except PatternError as error:
            rules.loss(line, f"{file}: {error}: this name is left out")
    for backend, names in backends.items():
        if backend in rules.proxies:
            _add_route(rules, line, Condition({"sni": tuple(dict.fromkeys(names))}), backend)
        else:
            rules.loss(line, f"there is no TCP backend {backend} in these files: {_LEFT_OUT}")
    if default and default in rules.proxies:
        rules.fallback = (default, line)


def _fall_back(rules: Rules) -> None:
    """Write the backend of sessions that match no route."""
    if rules.fallback is None:
        return
    name, line = rules.fallback
    rules.context.settle(line.place)
    if name not in rules.proxies:
        rules.loss(line, f"there is no TCP backend {name} in these files: left out")
        return
    if rules.guard.values and rules.rejects_others:
        _add_route(rules, line, Condition(), name)
        row = Table(place=line.place)  # the others are rejected, with the end reason of that
        row.set("reject", value=True, source=Origin(line.place))
        rules.routes.append(row)
        return
    rules.frontend.set(
        "backend", settled_name(name), line if line is not rules.own.head else Origin(line.place)
    )


def _track(rules: Rules, line: Line, action: Sequence[Word]) -> None:
    words = [word.text for word in action]
    key = words[1] if len(words) > 1 else ""
    if key != "src":
        rules.loss(line, f"counters by {key or 'nothing'} are not here: clients are counted by their address")
        return
    owner = rules.own
    if "table" in words[:-1]:
        name = words[words.index("table") + 1]
        owner = rules.proxies.get(name, rules.own)
    rules.table = owner.single.get("stick-table")
    if rules.table is None:
        rules.loss(line, "has no stick-table to count in: left out")
    else:
        rules.context.settle(rules.table.place)


def _limit(rules: Rules, line: Line, branch: Branch) -> None:
    """Translate a limit per client; other terms of the condition exempt clients."""
    exempt = list(rules.accepted)
    limits = []
    for term in branch:
        special = term.alternatives[0].special
        if special in ("conn_cur", "conn_rate") and not term.is_negated:
            limits.append(term.alternatives[0])
        elif term.is_negated and special is None:
            exempt += term.alternatives
        else:
            raise ConditionError("a limit under conditions is not here")
    if len(limits) != 1:
        raise ConditionError("two limits at once are not here")
    if any(tuple(each.values) != ("client",) for each in exempt):
        raise ConditionError("exceptions from limits are networks of clients here")
    limit = limits[0]
    if limit.special == "conn_cur":
        rules.frontend.set("max_sessions_per_client", limit.limit, line)
    else:
        table = rules.frontend.table("max_session_rate_per_client")
        table.place = line.place
        table.set("count", max(limit.limit, 1), line)
        table.set("per", _period(rules), Origin(line.place))
    if exempt:
        known = rules.frontend.get("max_sessions_per_client_exempt")
        networks = [
            *(known if isinstance(known, list) else []),
            *(str(value) for each in exempt for value in each.values["client"]),
        ]
        rules.frontend.set(
            "max_sessions_per_client_exempt", list(dict.fromkeys(networks)), Origin(line.place)
        )


def _period(rules: Rules) -> str:
    """Return the period of the rate that the stick table stores."""
    words = "" if rules.table is None else " ".join(rules.table.arguments)
    match = re.search(r"(?:conn_rate|sess_rate)\(([^)]*)\)", words)
    return (duration(match[1]) if match else None) or "60s"


def _expect_proxy(rules: Rules, line: Line, condition: Sequence[Word]) -> None:
    try:
        branches = rules.conditions.parse(condition)
        networks = [
            str(value)
            for branch in branches
            for each in _positive(branch)
            for value in each.values.get("client", ())
        ]
    except PatternError as error:
        rules.loss(line, f"{error}: {_LEFT_OUT}")
        return
    rules.accept_proxy = (networks or ["0.0.0.0/0", "::/0"], line)
