"""Exec, attach and port-forward for clients: one-time URLs, spoken to over WebSocket or SPDY/3.1."""
