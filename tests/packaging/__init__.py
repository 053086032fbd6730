"""Tests that take minutes and are run by `make packaging`, not by `make test`."""
