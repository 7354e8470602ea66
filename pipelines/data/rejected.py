"""Write and read rejected.csv, the list of clips that are not in the shards, each with the reason."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.core.errors import user_errors
from pipelines.storage.location import Location
from pipelines.video.errors import VideoFacts

__all__ = ["REJECTED_CSV", "read_rejected", "write_rejected"]


REJECTED_CSV = "rejected.csv"


def write_rejected(out: Location, rejected: Mapping[str, Sequence[Any]]) -> None:
    """Writes the reason of each clip, and the `VideoFacts` of the files that open, sorted by path."""
    text = io.StringIO()
    plain, quoting = (
        csv.writer(text, lineterminator="\n", quoting=kind) for kind in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    plain.writerow(("path", "reason", *VideoFacts._fields))
    for path, (reason, *facts) in sorted(rejected.items()):
        # Values that are unknown stay empty. Readers take a carriage return for the end of a line, but the plain writer
        # does not quote it.
        (quoting if "\r" in path else plain).writerow((path, reason, *(value or "" for value in VideoFacts(*facts))))
    (out / REJECTED_CSV).write_text(text.getvalue())


def read_rejected(place: Location) -> list[tuple[str, str]]:
    """(path, reason) of each rejected clip; [] without rejected.csv, which shards of other programs may lack."""
    file = place / REJECTED_CSV
    try:
        # Names of files may be in any encoding.
        text = file.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    with user_errors(f"{file} is damaged; run preprocess --resume"):
        # Further columns may follow.
        return [(path, reason) for path, reason, *_ in list(csv.reader(io.StringIO(text, newline="")))[1:]]
