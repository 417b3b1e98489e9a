"""The source of a configuration: TOML text to tables, and the line and column of each key.

Modules:
    syntax: Decodes and parses the text.
    positions: The offset of each key in the text.
    source_map: Gives a fault its line and column, also if the key comes from a profile or the defaults.
"""
