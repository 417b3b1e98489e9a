"""The edge: the only package that uses sockets, TLS and epoll. It translates foreign errors into the project's own.

Modules, in reading order:
    listener, inherited: sockets that accept, opened here or passed on by a service manager.
    poller: one epoll object for all sockets of sessions.
    peek, proxy_header: what a client sends first, read without consuming more than is understood.
    dial, resolve, keepalive: connections to servers.
    client_close: whether a waiting client has gone.
    tls: contexts, handshakes, certificates.
    relay: bytes from client to server and back.
    simple_io: sending and receiving for health checks.
    accounts, notify, process_name: the operating system's users, service manager and process names.
"""
