"""Health checks of servers: one check, the task that repeats it, and whether clients can log in."""
