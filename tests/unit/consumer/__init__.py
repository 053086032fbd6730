"""Unit tests of the kit for consumers."""
