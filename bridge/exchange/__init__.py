"""DigiFinex's protocol, sans-I/O: bytes and the time go in, messages and values come out."""
