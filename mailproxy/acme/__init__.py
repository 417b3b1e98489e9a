"""Certificates by ACME (RFC 8555): obtained, renewed, and stored as TLS files that the proxy reloads.

This package is loaded only if the configuration has ``[acme.NAME]``. It needs the extra ``acme``.

Modules, in reading order:
    service: The life cycle, one task for each authority.
    authority: One authority with its storage, and obtaining one certificate.
    schedule: When a certificate is due. Pure decisions.
    order: One order, from its beginning or from where a crash has left it.
    client: The authority as calls, on certbot's ``acme``.
    account: The account of a storage.
    challenges: How the proxy proves that it has a name.
    keys: Private keys, signing requests, and checks of what was issued.
    storage: Files that are replaced in one step.
    lock: One process of several obtains certificates.
    commands: ``mailproxy certs``.
    tlsa: TLSA records of the certificates.
    errors: What can go wrong.
"""
