"""The fields of a session's line in ``json``, for the table in ``docs/log-fields.md``.

A test compares them with the line.
"""

from __future__ import annotations

from attrs import frozen


@frozen
class Field:
    """One field of the line.

    Attributes:
        name: The key.
        kind: The JSON type, in words.
        meaning: The description in the documentation.
        example: A value as JSON.
    """

    name: str
    kind: str
    meaning: str
    example: str


_MAYBE = "string or null"

SESSION_FIELDS = (
    Field("time", "string", "when the session was accepted: UTC, RFC 3339 with milliseconds", '"2026-11-22T15:45:57.224Z"'),
    Field("event", "string", "always `session`", '"session"'),
    Field("level", "string", "always `info`", '"info"'),
    Field("frontend", "string", "name of the frontend", '"imaps"'),
    Field("bind", "string", "name of the bind, its address if it has no other name", '"*:993"'),
    Field("backend", _MAYBE, "name of the backend; null if the session ended before it had one", '"dovecot"'),
    Field("server", _MAYBE, "name of the server; null if none was chosen", '"d1"'),
    Field("client", "string", "address and port of the client, from the PROXY header if there was one", '"192.0.2.9:40000"'),
    Field("peer", _MAYBE, "address and port of the connection itself, if a PROXY header named the client", '"10.0.0.7:50000"'),
    Field("server_address", _MAYBE, "address and port of the server that the session was connected to", '"10.0.0.1:143"'),
    Field("queue_ms", "number", "milliseconds in the queue for a server; -1 if the session did not come that far", "0"),
    Field("connect_ms", "number", "milliseconds for connecting, with retries and TLS with the server; -1 if the session was not connected", "1"),
    Field("total_ms", "number", "milliseconds from accepting to the end", "2938"),
    Field("bytes_in", "number", "bytes from the client, without TLS", "77"),
    Field("bytes_out", "number", "bytes from the server, without TLS", "912"),
    Field("end", "string", "the end reason", '"client-closed"'),
    Field("by", "string", "what ended the session: `client`, `server`, `proxy`, `timeout` or `admin`", '"client"'),
    Field("phase", "string", "how far the session had come: `proxy-header`, `handshake`, `route`, `negotiation`, `queue`, `connect` or `data`", '"data"'),
    Field("state", _MAYBE, "HAProxy's two letters; null in the first two phases, where HAProxy has a message", '"--"'),
    Field("detail", _MAYBE, "the cause, if there is more to say than the end reason", '"no shared cipher"'),
    Field("retries", "number", "attempts to connect after the first one", "0"),
    Field("redispatched", "true or false", "whether the session was sent to another server than the one chosen first", "false"),
    Field("tls_version", _MAYBE, "version of the client's TLS; null if the proxy does not terminate it", '"TLSv1.3"'),
    Field("tls_cipher", _MAYBE, "cipher of the client's TLS, in OpenSSL's words", '"TLS_AES_256_GCM_SHA384"'),
    Field("sni", _MAYBE, "the server name that the client asked for, also in `passthrough`", '"imap.example.com"'),
    Field("alpn", _MAYBE, "the application protocol that was agreed upon", '"imap"'),
    Field("client_cn", _MAYBE, "common name of the client's certificate", '"alice"'),
    Field("close_notify", "true, false or null", "whether the client ended TLS with close_notify; null without TLS or before its end", "true"),
    Field("server_close_notify", "true, false or null", "the same of the server", "null"),
    Field("id", "string", "number of the session in hex, unique over all workers and restarts", '"6a01b2c2a"'),
)  # fmt: skip
