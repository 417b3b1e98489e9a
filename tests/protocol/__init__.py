"""What peers say first, read as bytes: ClientHellos and PROXY headers, without sockets."""
