"""Unit tests of the chaos run's own parts."""
