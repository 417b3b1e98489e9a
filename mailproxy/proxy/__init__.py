"""Serving in one process: where configuration, pool and network meet.

Modules, in reading order:
    service: the nursery of everything below.
    frontend, limits, overload, client_limits: accepting, and when it must wait.
    session: one connection from accepting to its log line.
    backend: servers, their states and what is logged of them.
    checks, monitor: health checks, host names and certificate files beside the sessions.
    supervise: how such helpers survive their own failures.
    faults: how the log reports a fault of mailproxy.
    process, collector, unraisable: what every serving process sets up once.
"""
