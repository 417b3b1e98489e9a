"""The text of a configuration: TOML to tables, and the line and column of each key."""
