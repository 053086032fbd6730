"""The text of a file that somebody has written: UTF-8, else an explanation. Pure."""

import codecs

# The longer ones first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    codecs.BOM_UTF8: "UTF-8",
}
_BEGINNING = 64  # bytes in which UTF-16 without a mark has a zero, since its first characters are ASCII


def text_of(content: bytes) -> str:
    """Return the text of a file.

    Raises:
        ValueError: it is not UTF-8, or begins with a byte order mark; the message says what to do about it,
            and has nothing of the text, which may be a secret.
    """
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            raise ValueError(
                f"begins with the byte order mark of {encoding} ({mark.hex(' ')}): "
                "save the file as UTF-8 without a byte order mark"
            )
    zero = content[:_BEGINNING].find(0)
    if zero >= 0:
        raise ValueError(f"has a zero at byte {zero}, as UTF-16 has: save the file as UTF-8")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"is not UTF-8 at byte {error.start} (line {line}): save the file as UTF-8"
        ) from None
