"""The importer of Caddy's layer4 configuration, as a Caddyfile or as JSON.

Modules, in the order in which a file becomes a draft:
    caddyfile, json_text: The two languages, with the place of each word or value.
    from_caddyfile, from_json: Both as the same model.
    model: Servers, routes, matchers, handlers.
    routing: Routes as targets, in order.
    convert: Servers as frontends.
    proxy: The proxy handler as a backend.
    tls, certificates: TLS that ends here, and its certificates.
    directives: What the documentation says about each directive.
"""
