"""Alerts, dashboard and runbook, checked against each other and against a real Prometheus."""
