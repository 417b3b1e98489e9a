"""Where configuration, pool and network meet: frontends, sessions, backends."""
