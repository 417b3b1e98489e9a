"""Whole programs against each other: mailproxy between real mail clients, HAProxy and real Dovecot."""
