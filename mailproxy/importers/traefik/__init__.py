"""Traefik's files: routers and services over TCP, in TOML or YAML.

Modules:
    reader: The values of a file with their places, and several files as one configuration.
    rules: The rules of routers as conditions of routes.
    services: Services as backends.
    convert: Entry points and routers as frontends.
    certificates: TLS options, and certificates from files or authorities.
    directives: What the documentation says about each key.
"""
