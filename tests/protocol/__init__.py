"""Tests of the protocol parsers: ClientHellos, PROXY headers and health checks as bytes, without sockets."""
