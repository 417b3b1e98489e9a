"""Real and faulty authorities for tests of ACME.

Modules:
    pebble: Pebble with its DNS server.
    front: A proxy in front of Pebble with faults and renewal information.
    site: mailproxy with an authority, and what clients see of its certificates.
    fake: An authority in Python.
    name_server: A name server in Python.
    zone: knot with a zone that takes updates.
"""
