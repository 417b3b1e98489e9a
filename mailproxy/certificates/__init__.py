"""TLS files on disk: loaded at the start, scanned for changes, and taken into use without a restart.

Modules, in reading order:
    store: the certificates, keys, CAs and revocation lists of a configuration, and the contexts made of them.
    loader: reads the files into a store, with a fault for each one that cannot be used.
    reloader: one reload of changed files. Its docstring has the diagram of the whole operation.
    watcher: the task that scans at every interval and logs the result.
    placeholder: what a bind has before its first certificate by ACME.
    storage_permissions: whether the storage of ACME is private.
    acme_status: how a certificate is that ACME obtains, for lists and metrics.
    expiry: warnings about certificates and revocation lists that are or soon will be out of date.
"""
