"""The fields of ``show stat``, in HAProxy 2.6's order, with what its typed output says of each."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen


@frozen
class StatField:
    """A field.

    Attributes:
        name: Its name.
        tags: Origin, nature and scope, as in HAProxy's management guide, section 9.2 "Typed output format".
        type: ``u32``, ``s32``, ``u64`` or ``str``.
        backend_tags: Those of backends, where they differ.
    """

    name: str
    tags: str = "MGP"
    type: str = "u32"
    backend_tags: str = ""

    def tags_of(self, kind: str) -> str:
        """Return the tags for a kind of object: ``F``, ``B`` or ``S``."""
        return self.backend_tags if kind == "B" and self.backend_tags else self.tags


# fmt: off
FIELDS: tuple[StatField, ...] = (
    StatField("pxname", "KNS", "str"), StatField("svname", "KNS", "str"), StatField("qcur", "MGP", "u32"),
    StatField("qmax", "MMP", "u32"), StatField("scur", "MGP", "u32"), StatField("smax", "MMP", "u32"),
    StatField("slim", "CLP", "u32"), StatField("stot", "MCP", "u64"), StatField("bin", "MCP", "u64"),
    StatField("bout", "MCP", "u64"), StatField("dreq", "MCP", "u64"), StatField("dresp", "MCP", "u64"),
    StatField("ereq", "MCP", "u64"), StatField("econ", "MCP", "u64"), StatField("eresp", "MCP", "u64"),
    StatField("wretr", "MCP", "u64"), StatField("wredis", "MCP", "u64"), StatField("status", "SGP", "str"),
    StatField("weight", "MaP", "u32"), StatField("act", "SGP", "u32", "MGP"),
    StatField("bck", "SGP", "u32", "MGP"), StatField("chkfail", "MCP", "u64"),
    StatField("chkdown", "MCP", "u64"), StatField("lastchg", "MAP", "u32"),
    StatField("downtime", "MCP", "u32"), StatField("qlimit"), StatField("pid", "KGP", "u32"),
    StatField("iid", "KGS", "u32"), StatField("sid", "KGS", "u32"), StatField("throttle"),
    StatField("lbtot", "MCP", "u64"), StatField("tracked"), StatField("type", "CGS", "u32"),
    StatField("rate", "MRP", "u32", "MGP"), StatField("rate_lim", "CLP", "u32"),
    StatField("rate_max", "MMP", "u32", "MGP"), StatField("check_status", "MOP", "str"),
    StatField("check_code"), StatField("check_duration", "MDP", "u64"), StatField("hrsp_1xx"),
    StatField("hrsp_2xx"), StatField("hrsp_3xx"), StatField("hrsp_4xx"), StatField("hrsp_5xx"),
    StatField("hrsp_other"), StatField("hanafail"), StatField("req_rate", "MRP", "u32"),
    StatField("req_rate_max", "MMP", "u32"), StatField("req_tot", "MCP", "u64"),
    StatField("cli_abrt", "MCP", "u64"), StatField("srv_abrt", "MCP", "u64"),
    StatField("comp_in", "MCP", "u64"), StatField("comp_out", "MCP", "u64"),
    StatField("comp_byp", "MCP", "u64"), StatField("comp_rsp", "MCP", "u64"),
    StatField("lastsess", "MAP", "s32"), StatField("last_chk", "MOP", "str"), StatField("last_agt"),
    StatField("qtime", "MaP", "u32"), StatField("ctime", "MaP", "u32"), StatField("rtime", "MaP", "u32"),
    StatField("ttime", "MaP", "u32"), StatField("agent_status"), StatField("agent_code"),
    StatField("agent_duration"), StatField("check_desc", "MOP", "str"), StatField("agent_desc"),
    StatField("check_rise", "CGS", "u32"), StatField("check_fall", "CGS", "u32"),
    StatField("check_health", "CGS", "u32"), StatField("agent_rise"), StatField("agent_fall"),
    StatField("agent_health"), StatField("addr", "CGS", "str"), StatField("cookie"),
    StatField("mode", "CGS", "str"), StatField("algo", "CGS", "str"), StatField("conn_rate", "MRP", "u32"),
    StatField("conn_rate_max", "MMP", "u32"), StatField("conn_tot", "MCP", "u64"), StatField("intercepted"),
    StatField("dcon", "MCP", "u64"), StatField("dses", "MCP", "u64"), StatField("wrew", "MCP", "u64"),
    StatField("connect", "MCP", "u64"), StatField("reuse", "MCP", "u64"), StatField("cache_lookups"),
    StatField("cache_hits"), StatField("srv_icur", "MGP", "u32"), StatField("src_ilim"),
    StatField("qtime_max", "MMP", "u32"), StatField("ctime_max", "MMP", "u32"),
    StatField("rtime_max", "MMP", "u32"), StatField("ttime_max", "MMP", "u32"),
    StatField("eint", "MCP", "u64"), StatField("idle_conn_cur", "MGP", "u32"),
    StatField("safe_conn_cur", "MGP", "u32"), StatField("used_conn_cur", "MGP", "u32"),
    StatField("need_conn_est", "MGP", "u32"), StatField("uweight", "MaP", "u32"),
    StatField("agg_server_status", "MGP", "u32"), StatField("agg_server_check_status", "MGP", "u32"),
    StatField("agg_check_status", "MGP", "u32"), StatField("ssl_sess", "MCP", "u64"),
    StatField("ssl_reused_sess", "MCP", "u64"), StatField("ssl_failed_handshake", "MCP", "u64"),
)
"""HAProxy's fields, without those about HTTP that follow behind them."""

# What HAProxy has for every proxy in mode tcp, and does not exist here.
_NO_ERRORS = {"dresp": 0, "wrew": 0, "eint": 0}
_NO_COMPRESSION = {"comp_in": 0, "comp_out": 0, "comp_byp": 0, "comp_rsp": 0}
_NO_REQUESTS = {"req_rate": 0, "req_rate_max": 0, "req_tot": 0, "rate_lim": 0}
_NO_RESPONSES = {"eresp": 0, "rtime": 0, "rtime_max": 0, "reuse": 0}
_NO_IDLE_CONNECTIONS = {"srv_icur": 0, "idle_conn_cur": 0, "safe_conn_cur": 0, "need_conn_est": 0}
_NO_RESUMPTION = {"ssl_reused_sess": 0}

CONSTANTS: Mapping[str, Mapping[str, int | str]] = {
    "F": {"pid": 1, "mode": "tcp", **_NO_ERRORS, **_NO_COMPRESSION, **_NO_REQUESTS, **_NO_RESUMPTION},
    "B": {"pid": 1, "mode": "tcp", **_NO_ERRORS, **_NO_COMPRESSION, **_NO_RESPONSES, **_NO_RESUMPTION},
    "S": {"pid": 1, "mode": "tcp", **_NO_ERRORS, **_NO_RESPONSES, **_NO_IDLE_CONNECTIONS, **_NO_RESUMPTION},
}
# fmt: on
"""The fields that are the same for every frontend (F), backend (B) or server (S)."""
