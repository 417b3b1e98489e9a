"""Rules over several keys: what must go together, and what excludes each other."""
