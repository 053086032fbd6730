"""The protocol: bytes and times in, messages and values out."""
