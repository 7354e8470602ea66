"""A sweep or a run in a bucket: worked on in a copy on this machine, which is mirrored there as it grows.

    with working_copy(Location.of("s3://bucket/sweep"), marker="sweep.json", resume=True) as out:
        ...  # a path of this machine

The copy lies under TTRNN_CACHE, in work/. URI/mirror.json names the copy that the bucket follows: the machine that it
lies on goes on from it; another one that resumes takes over what lies in the bucket, and the copy before is followed no
more. What lies there can be gone on from at any time:

- A run that is being trained (SWEEP/trials/ID, confirm/ID-sSEED or RUN) is one object, its running.zip: checkpoint,
  model and curve always belong together. Where that lies, other files of the run do not count.
- One that has ended lies there file by file, its summary.json and result.json last; then the running.zip goes.
- study.journal is read before the trials are looked through and written after them: each trial that it calls ended is
  there whole. One that it does not know yet is dropped by who takes over, and is asked for again.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import time
import uuid
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipelines.core.errors import StepError, UserError
from pipelines.core.periodic import repeated
from pipelines.storage.cache import locked_copy
from pipelines.storage.location import Location
from pipelines.storage.output import prepare_out
from ttrnn.files import atomic_write

__all__ = ["reading_copy", "working_copy"]


log = logging.getLogger(__name__)
_MIRROR, _RUNNING, _JOURNAL = "mirror.json", "running.zip", "study.journal"
_EVERY_S = 5.0
# A run that is being trained is sent so often, and what grows: more than that a lost machine does not cost.
_RUNNING_EVERY_S = 30.0
# For a bucket that does not answer when all is done.
_PATIENCE_S = 120.0
_WAIT_S = 60.0
_THREADS = 16
# Shards are written to the bucket straight away, the demo's videos are rendered where they are wanted.
_NOT_SENT = ("shards", "videos")
# Grows all the time, and is of use to nobody who resumes.
_AT_THE_END = ("ray.log",)
_OF_RUN = ("config.json", "metrics.jsonl", "summary.json", "result.json", "model", "checkpoint", _RUNNING)
_LAST = ("summary.json", "result.json")
_ENDED = ("complete", "stopped", "failed")
Files = dict[str, tuple[int, int, int]]
"""Names, relative to the copy, and what tells that a file is another one than before."""


@contextlib.contextmanager
def working_copy(
    place: Location,
    *,
    marker: str,
    resume: bool = False,
    overwrite: bool = False,
    known_trials: Callable[[Path], Collection[str]] | None = None,
) -> Iterator[Path]:
    """Where to work on OUT: the very directory if it is a path; else a copy, mirrored to OUT while the block runs.

    A bucket that does not answer holds nothing up: it is told of once and tried again.

    Args:
        place: OUT.
        marker: As `prepare_out` has it, which is to be called on the copy too: sweep.json, or config.json of a run.
        resume: The copy holds what is there.
        overwrite: Delete what is there first.
        known_trials: Gives the names of the trials that the study in a copy of a sweep knows.

    Raises:
        UserError: OUT exists and neither is given, or it is not ours to delete, or another command works on it.
        StepError: at the end the bucket does not hold everything; where the copy lies is told.
    """
    if place.is_local:
        yield place.absolute().local
        return
    with locked_copy(place, "work") as copy:
        found = _read_json(place / _MIRROR)
        if found.get("of", marker) != marker:
            raise UserError(f"{place} was made by another command, which wrote {found['of']}; give another OUT")
        is_fresh = overwrite or place.is_empty()
        prepare_out(place, marker=_MIRROR if found or overwrite else marker, overwrite=overwrite, resume=resume)
        mirror = _Mirror(place, copy, marker, known_trials)
        if is_fresh or not mirror.is_followed_by(found):
            mirror.take_over(is_fresh)
        else:
            mirror.go_on()
        with mirror.kept():
            yield copy


@contextlib.contextmanager
def reading_copy(place: Location, results: Sequence[str] = ()) -> Iterator[Path]:
    """What lies in a sweep, run or model directory: there if it is a path, else in a copy of it, which stays.

    Args:
        place: The directory.
        results: Files and directories that the block writes; of a copy they are put into `place` at its end.

    Raises:
        UserError: nothing of the kind lies there.
    """
    if place.is_local:
        yield place.local
        return
    with locked_copy(place, "read", wait_s=_WAIT_S) as copy:
        names = place.files()
        if not {"sweep.json", "config.json"} & set(names):
            raise UserError(f"{place} is no sweep, run or model; give the OUT of sweep, train or export")
        _clear(copy)
        _pull(place, copy, [name for name in names if "checkpoint" not in name.split("/")])
        yield copy
        written = [name for name in _files(copy) if name.split("/")[0] in results]
        _each(lambda name: _put(copy, place, name), written)


class _Mirror:
    """The copy of one command, and what of it the bucket has."""

    def __init__(
        self, place: Location, copy: Path, marker: str, known_trials: Callable[[Path], Collection[str]] | None
    ) -> None:
        self._place, self._copy, self._marker, self._known_trials = place, copy, marker, known_trials
        self._is_run = marker == "config.json"
        self._id_path, self._id = copy.parent / "id", ""
        self._sent: Files = {}
        self._runs: dict[str, Files] = {}
        self._zipped: set[str] = set()
        self._zipped_at: dict[str, float] = {}
        self._put_at: dict[str, float] = {}
        self._is_down = self._is_lost = False

    def is_followed_by(self, found: dict[str, Any]) -> bool:
        """Whether the bucket, whose mirror.json that is, follows this copy."""
        with contextlib.suppress(FileNotFoundError):
            self._id = self._id_path.read_text(encoding="utf-8")
        return bool(self._id) and self._id == found.get("copy") and (self._copy / self._marker).exists()

    def take_over(self, is_fresh: bool) -> None:
        """The copy becomes what lies in the bucket, and the bucket follows it from now on."""
        _clear(self._copy)
        if not is_fresh:
            log.info("taking over %s", self._place)
            names = self._place.files()
            _pull(self._place, self._copy, names)
            if self._known_trials is not None:
                _drop_unknown_trials(self._place, self._copy, self._known_trials)
            files = _files(self._copy)
            self._zipped = {run for run in _zipped(names) if (self._copy / run).exists()}
            self._sent = {name: files[name] for name in names if name in files}
        self._id = uuid.uuid4().hex
        with atomic_write(self._id_path) as file:
            file.write(self._id)
        document = {"format": "ttrnn-mirror", "version": 1, "of": self._marker, "copy": self._id}
        (self._place / _MIRROR).write_text(json.dumps({**document, "node": os.uname().nodename}, indent=1))

    def go_on(self) -> None:
        """The copy is at least as new as what lies in the bucket."""
        self._zipped = _zipped(self._place.files())

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Sends what changes while the block runs, and everything at its end."""
        ended_well = False
        try:
            with repeated(self._look, _EVERY_S):
                yield
            ended_well = True
        finally:
            try:
                self._finish(_PATIENCE_S if ended_well else 0.0)
            except (StepError, OSError) as error:
                way_out = "" if self._is_lost else "; --resume on this machine puts it there"
                text = f"{error}; what this command has made lies in {self._copy}{way_out}"
                if ended_well:
                    raise StepError(text) from error
                log.error("%s", text)

    def _look(self) -> None:
        """One look, by the thread."""
        if self._is_lost:
            return
        try:
            self._send()
        except FileNotFoundError:
            # Replaced by a newer one just now: it will be there the next time.
            return
        except (StepError, OSError) as error:
            if not self._is_down:
                log.warning("%s%s", error, "" if self._is_lost else "; nothing is lost, it is tried again")
            self._is_down = True
            return
        if self._is_down:
            log.info("%s answers again, and has everything", self._place)
        self._is_down = False

    def _finish(self, patience_s: float) -> None:
        give_up = time.monotonic() + patience_s
        while True:
            try:
                if self._copy.exists() and any(self._copy.iterdir()):
                    self._send(is_last=True)
                elif set(self._place.files()) <= {_MIRROR, self._marker}:
                    # Refused: the corrected command must not be told that OUT exists.
                    self._place.clear()
            except (StepError, OSError):
                if self._is_lost or time.monotonic() > give_up:
                    raise
                time.sleep(_EVERY_S)
            else:
                return

    def _send(self, *, is_last: bool = False) -> None:
        """Brings the bucket up to date; in an order by which it can be gone on from wherever this breaks off."""
        journal = self._copy / _JOURNAL
        # Before all else: trials that it calls ended are whole by now.
        content = journal.read_bytes() if journal.exists() else b""
        files = _files(self._copy)
        signature = (0, content.rfind(b"\n") + 1, 0)
        runs: dict[str, Files] = {}
        single: Files = {}
        for name, status in files.items():
            run = _run_of(name, self._is_run)
            if run is not None:
                runs.setdefault(run, {})[name] = status
            if name == self._marker or (run is None and name != _JOURNAL and (is_last or name not in _AT_THE_END)):
                single[name] = status
        changed = [run for run in runs if self._is_due(run, runs[run], is_last)]
        trials = [run for run in changed if not run.startswith("confirm/") and (self._is_run or content)]
        confirmed = [run for run in changed if run.startswith("confirm/")]
        single = {name: status for name, status in single.items() if self._is_to_put(name, status, is_last)}
        is_grown = bool(signature[1]) and self._sent.get(_JOURNAL) != signature
        if not (changed or single or is_grown):
            return
        self._check_followed()
        if self._marker in files:
            self._put(self._marker, files[self._marker])
        _each(lambda run: self._send_run(run, runs[run]), trials)
        if is_grown:
            with (self._place / _JOURNAL).writing() as file:
                file.write(content[: signature[1]])
            self._sent[_JOURNAL] = signature
        _each(lambda run: self._send_run(run, runs[run]), confirmed)
        _each(lambda name: self._put(name, single[name]), list(single))

    def _check_followed(self) -> None:
        found = _read_json(self._place / _MIRROR)
        if found.get("copy") != self._id:
            self._is_lost = True
            raise StepError(f"{self._place} is gone on with on {found.get('node', 'another machine')}, and not here")

    def _is_due(self, run: str, files: Files, is_last: bool) -> bool:
        """Whether the bucket should be told of it: it has ended, or it is some time since."""
        if self._runs.get(run) == files:
            return False
        if _has_ended(self._copy / run):
            return True
        # Before its first checkpoint there is nothing to go on from.
        since = time.monotonic() - self._zipped_at.setdefault(run, time.monotonic())
        return (is_last or since >= _RUNNING_EVERY_S) and any("checkpoint" in name.split("/") for name in files)

    def _is_to_put(self, name: str, status: tuple[int, int, int], is_last: bool) -> bool:
        """Whether a file of no run is another one than the bucket has; one that grows is sent now and then."""
        since = time.monotonic() - self._put_at.get(name, -math.inf)
        return self._sent.get(name) != status and (is_last or since >= _RUNNING_EVERY_S)

    def _send_run(self, run: str, files: Files) -> None:
        place = self._place / run if run else self._place
        if not _has_ended(self._copy / run):
            place.mkdir()
            self._send_running(run, place / _RUNNING)
        else:
            # Of a RUN it says that nothing is to be done any more; a sweep asks its study.
            names = [name for name in files if self._is_run or "checkpoint" not in name.split("/")]
            for name in sorted(names, key=_order):
                self._put(name, files[name])
            if run in self._zipped:
                (place / _RUNNING).remove()
                self._zipped.discard(run)
        self._runs[run] = files

    def _send_running(self, run: str, target: Location) -> None:
        """All its files as one object, as they are at one moment."""

        def look() -> Files:
            return {name: status for name, status in _files(self._copy).items() if _run_of(name, self._is_run) == run}

        files = look()
        with target.writing() as file:
            with zipfile.ZipFile(file, "w") as archive:
                for name in files:
                    archive.write(self._copy / name, os.path.relpath(name, run or "."))
            if look() != files:
                raise FileNotFoundError(f"{run or self._copy} has changed meanwhile")
            self._zipped.add(run)
        self._zipped_at[run] = time.monotonic()

    def _put(self, name: str, status: tuple[int, int, int]) -> None:
        if self._sent.get(name) != status:
            _put(self._copy, self._place, name)
            self._sent[name], self._put_at[name] = status, time.monotonic()


def _run_of(name: str, is_run: bool) -> str | None:
    """The run that a file belongs to, as a directory of the copy: "" for RUN itself; None for other files."""
    parts = name.split("/")
    if is_run:
        return "" if parts[0] in _OF_RUN else None
    return "/".join(parts[:2]) if parts[0] in ("trials", "confirm") and len(parts) > 2 else None


def _has_ended(run: Path) -> bool:
    return _read_json(Location(str(run / "summary.json"))).get("state") in _ENDED


def _order(name: str) -> tuple[int, str]:
    base = name.split("/")[-1]
    return (_LAST.index(base) + 1 if base in _LAST else 0), name


def _zipped(names: Sequence[str]) -> set[str]:
    """The runs that lie in the bucket as one object."""
    return {name.removesuffix(_RUNNING).rstrip("/") for name in names if name.split("/")[-1] == _RUNNING}


def _files(copy: Path) -> Files:
    """All that may be sent; nothing hidden, which is where files are half written."""
    found: Files = {}
    for folder, folders, names in os.walk(copy):
        inner = os.path.relpath(folder, copy)
        folders[:] = [name for name in folders if name[0] != "." and (inner != "." or name not in _NOT_SENT)]
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if name[0] != ".":
                    status = os.stat(os.path.join(folder, name))
                    found[os.path.normpath(os.path.join(inner, name))] = (
                        status.st_mtime_ns,
                        status.st_size,
                        status.st_ino,
                    )
    return found


def _pull(place: Location, copy: Path, names: Sequence[str]) -> None:
    """Fetches files of a sweep or a run into a copy of it, runs that are one object as their files."""
    zipped, is_run = _zipped(names), "sweep.json" not in names

    def is_wanted(name: str) -> bool:
        if name == _MIRROR or name.split("/")[0] in _NOT_SENT:
            return False
        return name.split("/")[-1] == _RUNNING or _run_of(name, is_run) not in zipped

    def fetch(name: str) -> None:
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (place / name).download(target)
        if target.name == _RUNNING:
            try:
                with zipfile.ZipFile(target) as archive:
                    archive.extractall(target.parent)
            except zipfile.BadZipFile as error:
                raise StepError(f"{place / name} is damaged ({error}); delete it: the training begins anew") from error
            target.unlink()

    _each(fetch, [name for name in names if is_wanted(name)])


def _drop_unknown_trials(place: Location, copy: Path, known_trials: Callable[[Path], Collection[str]]) -> None:
    """Trials that were begun after the study was last written: their numbers will be given to others."""
    trials = sorted((copy / "trials").glob("*"))
    if not trials:
        return
    known = known_trials(copy)
    if not known:
        raise UserError(
            f"{place} has trials, but no {_JOURNAL} that can be read; put it back, or start anew with --overwrite"
        )
    for trial in trials:
        if trial.name not in known:
            shutil.rmtree(trial)
            (place / "trials" / trial.name).clear()


def _clear(copy: Path) -> None:
    shutil.rmtree(copy)
    copy.mkdir()


def _put(copy: Path, place: Location, name: str) -> None:
    (place / os.path.dirname(name) if "/" in name else place).mkdir()
    (place / name).upload(copy / name)


def _each(call: Any, items: Sequence[str]) -> None:
    """Calls it for all of them, some at a time; raises what one has raised when all have ended."""
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(call, items))


def _read_json(file: Location) -> dict[str, Any]:
    """{} where there is none, or it can't be read."""
    try:
        found = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
