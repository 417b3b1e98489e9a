"""TLS on sockets: contexts, handshakes, closing, and the choice of a certificate by server name.

``ssl`` is imported in this package, in the relay, in ``net.client_close`` and ``net.simple_io``, and in
``certificates.loader``, which tries files.

Modules, in reading order:
    certificate_files: which files of a folder hold certificates, and where their keys are.
    certificate: a certificate with its key and names, and the index of certificates by server name.
    context: ``SSLContext`` objects made from the configuration.
    terminator: the contexts of a bind, selected by server name.
    tls_socket: TLS connections straight on the descriptor.
    handshake: handshakes with clients and servers, and what is known after them.
    close: alerts, close_notify, and the test whether the peer has closed.
    errors: errors of OpenSSL and the operating system, in mailproxy's words.
    kernel: TLS in the kernel.
    openssl: OpenSSL's functions that ``ssl`` lacks.
"""
