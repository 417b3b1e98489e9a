"""What is allowed in a configuration and probably wrong: ports of mail, loops, other proxies' words."""
