"""Unit tests of `tail`."""
