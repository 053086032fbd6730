"""The tests: unit, integration, golden samples, and what they share."""
