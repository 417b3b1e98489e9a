"""Certificates by ACME."""
