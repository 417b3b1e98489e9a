"""The edge: listeners, dialing, names, certificates, over real sockets and with real keys."""
