"""Metrics, logs, endpoints and events."""
