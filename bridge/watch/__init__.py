"""The ways to watch the bridge: metrics, logs, HTTP endpoints and events."""
