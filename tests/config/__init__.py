"""The configuration: from TOML to frozen values, or to every fault at once."""
