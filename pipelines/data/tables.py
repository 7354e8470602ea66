"""Read tables as programs write them: CSV with any usual separator and encoding."""

import codecs
import csv
import io
import logging
from typing import Any, NamedTuple

from pipelines.core.errors import UserError
from pipelines.storage.location import Location

__all__ = ["Row", "TableError", "decode", "read_rows", "read_text"]

log = logging.getLogger(__name__)

# UTF-32 before UTF-16, whose byte order mark begins the same.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# Of Excel's and LibreOffice's files: a ZIP archive, or the older compound file.
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")


class TableError(ValueError):
    """The file is no text, or no table."""


class Row(NamedTuple):
    """A row of a table, and the number of its line, from 1."""

    line: int
    values: list[str]


def decode(content: bytes, name: str = "") -> str:
    """The text of a file in UTF-8, UTF-16, UTF-32 or cp1252; logs a warning about cp1252 if `name` is given.

    Raises:
        TableError: it is no text.
    """
    if content.startswith(_WORKBOOKS):
        raise TableError("it is a workbook or an archive: save the sheet as CSV UTF-8")
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "")
    if not encoding and b"\0" in content[:4096]:
        # Without a mark, every second byte of Western text in UTF-16 is 0.
        encoding = "utf-16-le" if content[1:4096:2].count(0) >= content[:4096:2].count(0) else "utf-16-be"
    try:
        text = content.decode(encoding or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if encoding:
            raise TableError(str(error)) from error
        text = _decode_cp1252(content, name)
    if any(ord(character) < 32 and character not in "\t\n\r\f\x1a" for character in text[:4096]):
        raise TableError("it has control characters")
    return text


def _decode_cp1252(content: bytes, name: str) -> str:
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError as error:
        raise TableError(f"it is neither UTF-8 nor cp1252: {error}") from error
    if name:
        line = next(line for line in text.splitlines() if not line.isascii())
        log.warning(
            "%s is not UTF-8 and is read as cp1252 (Windows, Western Europe): %r; if that is wrong, save it as UTF-8",
            name,
            line[:80],
        )
    return text


def read_text(file: Location) -> str:
    """The text of a file; see `decode`. Raises UserError if it is no text or does not exist."""
    try:
        return decode(file.read_bytes(), str(file))
    except (FileNotFoundError, TableError) as error:
        raise UserError(f"{file} cannot be read ({error}); write it again, in UTF-8") from error


def read_rows(text: str, separators: str = ",;\t") -> list[Row]:
    """The rows of a table, without empty ones.

    Args:
        text: CSV. Spreadsheets may begin it with a line sep=; that names the separator.
        separators: The first one that divides the first row is the separator.

    Raises:
        TableError: it is no CSV.
    """
    number, named = 0, ""
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:
        text, number, named = rest, 1, first.strip()[4]
    try:
        dividing = (sign for sign in separators if len(next(_reader(text, sign), [])) > 1)
        separator = named or next(dividing, separators[0])
        reader = _reader(text, separator)
        return [Row(number + reader.line_num, row) for row in reader if any(value.strip() for value in row)]
    except csv.Error as error:
        raise TableError(str(error)) from error


def _reader(text: str, separator: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator)
