"""The edge to the disk."""
