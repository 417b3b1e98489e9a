"""TLS on sockets: contexts, handshakes, closing, and the choice of a certificate by server name.

Modules:
    tls: sockets, handshakes, alerts and close_notify.
    certificate, certificate_files: a certificate with its key, and the files that hold them.
    terminator: the certificates of a bind, selected by server name.
    auto_retry: keeps one TLS read from handling more than one record.
"""
