"""Draws the dashboard of a release that goes through five scenes: `python -m tests.monitoring.pictures`."""
