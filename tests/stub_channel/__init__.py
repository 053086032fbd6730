"""A channel that only the tests have: it proves that a module, a schema and golden samples are enough."""
