"""Stick tables in several processes: new entries in batches (sync), whole tables (tables)."""
