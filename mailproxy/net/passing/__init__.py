"""Listening sockets that outlive the process: passed to the next program, or stored by the service manager.

Modules:
    sockets: What is passed. matching: Which bind of the next configuration takes it.
    adopt: Listening with such sockets.
    packets: The dialogue between the running program and the one that replaces it.
    store: systemd's descriptor store.
"""
