"""Serving in one process: where configuration, pool and network meet.

Modules, in reading order:
    service: the nursery of everything below. single_process builds one with all its parts.
    frontend: accepts connections and owns the tasks of sessions.
    limits, client_limits, overload: limits on sessions, and what is logged when accepting waits.
    session: one connection, from accepting to its log line. client_info: what is known of its client.
    backend: servers, their states and what is logged of them.
    checks, monitor: health checks, host names and certificate files, beside the sessions.
    supervise: how such helpers survive their own failures. faults: how the log reports them.
    reload: another configuration in place, a package.
    signals: what the signals of an operator mean.
    host_checks: whether this machine has what a configuration names. access: whether the user that sessions run
        as can read a file.
    process: what belongs to the whole process: descriptors, garbage collection, errors that Python cannot
        raise.

The multi-process machinery is in `mailproxy.workers`, which nothing here imports.
"""
