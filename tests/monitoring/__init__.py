"""Alerts, dashboard and runbook: held against each other, and against a real Prometheus."""
