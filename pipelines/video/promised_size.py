"""Read the size that a container says it has, to distinguish a file that was cut off from one with a wrong rate."""

import struct
from typing import IO

__all__ = ["promised_size"]

_HEAD_BYTES = 1024
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")


def promised_size(file: IO[bytes]) -> int:
    """The bytes that an AVI, Matroska, WebM or ASF (WMV) file should have at least; 0 if it does not say."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    if head[:4] == b"RIFF" and len(head) >= 8:
        return 8 + int(struct.unpack_from("<I", head, 4)[0])
    if head.startswith(_ASF_HEADER) and (at := head.find(_ASF_FILE_PROPERTIES)) >= 0 and len(head) >= at + 48:
        # After the identifiers of the object (16 bytes) and the file (16), and the size of the object (8).
        return int(struct.unpack_from("<Q", head, at + 40)[0])
    if head.startswith(_EBML) and (at := head.find(_SEGMENT)) >= 0:
        return _ebml_end(head, at + len(_SEGMENT))
    return 0


def _ebml_end(head: bytes, at: int) -> int:
    """The end of the element whose size begins at `at`; 0 if the size is unknown, as in a recording of a browser."""
    if at >= len(head) or not head[at]:
        return 0
    # The number of leading zeros is that of the bytes that follow.
    num_bytes = 9 - head[at].bit_length()
    size = int.from_bytes(head[at : at + num_bytes], "big") - (1 << 7 * num_bytes)
    is_unknown = size == (1 << 7 * num_bytes) - 1
    return 0 if is_unknown else at + num_bytes + size
