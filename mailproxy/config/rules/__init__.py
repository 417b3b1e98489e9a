"""Rules between keys: which must go together, and which exclude each other.

Each ``check_…`` function reports its faults to the ``Diagnostics``, and changes nothing else.

Modules:
    reference_rules: The backends and profiles that tables name.
    frontend_rules: Binds, routes, limits and TLS of a frontend.
    server_rules: Servers and TLS of a backend.
    check_rules: Health checks, passive health and stick tables.
    address_rules: Addresses of all frontends and backends together: overlaps, missing ports, loops.
    log_rules: Targets of the log.
    acme_rules: Authorities of certificates, and the frontends that use them.
"""
