"""What the supervisor knows of its children: starts and exits, heartbeats, messages, the plan to end them."""
