"""How the proxy proves that it has a name, one module for each challenge.

Modules:
    solver: What all of them have in common.
    tls_alpn: tls-alpn-01, answered by the binds of all processes from a file in the storage.
    http: http-01, by a small listener or in a web server's folder.
    dns: dns-01, by a program or by updates of the zone.
    propagation: Whether a TXT record can be seen, and look-ups of TLSA records.
"""
