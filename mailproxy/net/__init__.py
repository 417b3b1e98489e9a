"""The edge: the only package that uses sockets, TLS and epoll.

It translates foreign errors into the project's own.

Modules, in reading order:
    listening_socket, listener, inherited: listening sockets, opened here or passed on by a service manager.
    handover: which of them stay in a reload.
    poller: one epoll object for the sockets of all sessions.
    io_wait: the poller inside trio's wait for I/O.
    peek, proxy_header: the first bytes of a client, read without consuming more than is understood.
    dial, resolve, keepalive: connections to servers.
    client_close: whether a client has closed while its session waits for a server.
    tls: contexts, handshakes, certificates.
    relay: the bytes of established sessions.
    simple_io: sending and receiving for health checks, and in the dialogues before a session is joined.
    accounts, notify, process_name: the operating system's users, service manager and process names.
"""
