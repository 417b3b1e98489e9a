"""The program's own tasks: files that the configuration names, advice, privileges."""
