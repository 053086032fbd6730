"""What tells people what happens: metrics, logs, HTTP endpoints and events."""
