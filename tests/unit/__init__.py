"""Pure tests, which mirror `bridge`: bytes and times in, values out."""
