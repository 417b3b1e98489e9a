"""The edge: the only place that knows sockets, TLS and readiness. Foreign errors become the project's own here."""
