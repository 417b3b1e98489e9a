"""HTTP beside a running proxy: metrics, health, status and commands.

The packages of the extra ``http`` are imported by `guard`, `app`, `server` and `admin.exporter.exposition` alone, and those are imported only
where ``admin.http`` is set.

Modules, in reading order:
    token: the token that commands need.
    sockets: opens the socket of ``admin.http``.
    advice: what `mailproxy check` would say about the configuration in use.
    status: the proxy as JSON.
    guard: what every request must pass: host, token, size.
    app: the pages. The files of the status page are in the folder page.
    connections: bounds on connections.
    server: serves them.
    run: all of it beside a proxy.
"""
