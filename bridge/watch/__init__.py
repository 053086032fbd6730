"""What people watch the bridge by: metrics, logs, HTTP endpoints and events."""
