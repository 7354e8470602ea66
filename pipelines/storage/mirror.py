"""Mirror the copy of a sweep or a run, which a command works on, to its bucket.

The copy lies in TTRNN_CACHE/work. URI/mirror.json names the copy that the bucket mirrors. A command that resumes on the
machine of that copy continues with it. On another machine it takes the sweep over: it copies what the bucket holds, and
the bucket mirrors the new copy from then on. The bucket can be resumed from at any time:

- A run that is being trained (SWEEP/trials/ID, SWEEP/confirm/ID-sSEED or RUN) is one object, its running.zip:
  checkpoint, model and curve always belong together. Where there is one, other files of the run do not count.
- A run that has ended lies in the bucket file by file; files that say so are sent last; then running.zip is
  deleted.
- The journal of the study is read before the trials are looked through and sent after them, so that each trial that it
  calls ended is there whole. Trials that it does not know are deleted by the machine that takes over, and asked for
  again.
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
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pipelines.core.errors import StepError, UserError
from pipelines.core.periodic import repeated
from pipelines.storage.layout import MirrorLayout
from pipelines.storage.location import Location
from pipelines.storage.transfer import RUNNING, Files, clear, for_each, list_files, pull, put, zipped_runs
from ttrnn.files import atomic_write

__all__ = ["MIRROR_JSON", "Mirror", "read_mirror"]

log = logging.getLogger(__name__)

MIRROR_JSON = "mirror.json"
"""The file of the bucket that names the copy."""
_EVERY_S = 5.0
# How often running trainings and growing files are sent: with a machine, at most this much training is lost.
_RUNNING_EVERY_S = 30.0
# How long the end of a command waits for a bucket that does not answer.
_PATIENCE_S = 120.0


class Mirror:
    """Sends the copy of one command to its bucket.

    Args:
        place: The directory in the bucket.
        copy: The copy of it.
        layout: What they hold.
    """

    def __init__(self, place: Location, copy: Path, layout: MirrorLayout) -> None:
        self._place, self._copy, self._layout = place, copy, layout
        self._id_path, self._id = copy.parent / "id", ""
        self._journal_end = 0
        self._sent: Files = {}
        self._runs: dict[str, Files] = {}
        self._zipped: set[str] = set()
        self._zipped_at: dict[str, float] = {}
        self._put_at: dict[str, float] = {}
        self._is_down = self._is_superseded = False

    def is_mirrored(self, found: dict[str, Any]) -> bool:
        """Whether the bucket mirrors this copy, by the content of its mirror.json."""
        with contextlib.suppress(FileNotFoundError):
            self._id = self._id_path.read_text(encoding="utf-8")
        return bool(self._id) and self._id == found.get("copy") and (self._copy / self._layout.marker).exists()

    def take_over(self, is_fresh: bool) -> None:
        """Makes the copy what the bucket holds, and the bucket a mirror of this copy."""
        clear(self._copy)
        if not is_fresh:
            log.info("taking over %s", self._place)
            names = self._place.files()
            zipped = zipped_runs(names)
            pull(self._place, self._copy, [name for name in names if self._is_current(name, zipped)])
            self._drop_unknown_trials()
            files = self._files()
            self._zipped = {run for run in zipped if (self._copy / run).exists()}
            self._sent = {name: files[name] for name in names if name in files}
        self._id = uuid.uuid4().hex
        with atomic_write(self._id_path) as file:
            file.write(self._id)
        document = {"format": "ttrnn-mirror", "version": 1, "of": self._layout.marker, "copy": self._id}
        (self._place / MIRROR_JSON).write_text(json.dumps({**document, "node": os.uname().nodename}, indent=1))

    def _is_current(self, name: str, zipped: Collection[str]) -> bool:
        """Whether an object of the bucket belongs into a copy: not if a running.zip takes its place."""
        if name == MIRROR_JSON or name.split("/")[0] in self._layout.never_sent:
            return False
        return name.split("/")[-1] == RUNNING or self._layout.run_of(name) not in zipped

    def _drop_unknown_trials(self) -> None:
        """Deletes trials that the journal does not know: their numbers will be given to others."""
        trials = sorted((self._copy / self._layout.trials).glob("*")) if self._layout.known_trials else []
        if not trials:
            return
        assert self._layout.known_trials is not None
        known = self._layout.known_trials(self._copy)
        if not known:
            raise UserError(
                f"{self._place} has trials, but no {self._layout.journal} that can be read; put it back, or start anew "
                "with --overwrite"
            )
        for trial in trials:
            if trial.name not in known:
                shutil.rmtree(trial)
                (self._place / self._layout.trials / trial.name).clear()

    def resume(self) -> None:
        """Continues with the copy, which is at least as new as what the bucket holds."""
        self._zipped = zipped_runs(self._place.files())

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
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
                hint = "" if self._is_superseded else "; --resume on this machine sends it"
                text = f"{error}; the results of this command lie in {self._copy}{hint}"
                if ended_well:
                    raise StepError(text) from error
                log.error("%s", text)

    def _look(self) -> None:
        """Sends what has changed; called by the thread."""
        if self._is_superseded:
            return
        try:
            self._send()
        except FileNotFoundError:
            # The file was replaced by a newer one meanwhile, which the next call sends.
            return
        except (StepError, OSError) as error:
            if not self._is_down:
                log.warning("%s%s", error, "" if self._is_superseded else "; nothing is lost, it is tried again")
            self._is_down = True
            return
        if self._is_down:
            log.info("%s answers again, and holds everything", self._place)
        self._is_down = False

    def _finish(self, patience_s: float) -> None:
        """Sends everything; tries again for so long if the bucket does not answer."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                if self._copy.exists() and any(self._copy.iterdir()):
                    self._send(is_last=True)
                elif set(self._place.files()) <= {MIRROR_JSON, self._layout.marker}:
                    # The command was refused. Corrected, it must not be refused because OUT exists.
                    self._place.clear()
            except (StepError, OSError):
                if self._is_superseded or time.monotonic() > deadline:
                    raise
                time.sleep(_EVERY_S)
            else:
                return

    def _send(self, *, is_last: bool = False) -> None:
        """Brings the bucket up to date, in an order that leaves it resumable wherever the transfer breaks off."""
        layout = self._layout
        # First of all: trials that the journal calls ended are whole by now.
        journal = self._copy / layout.journal if layout.journal else None
        content = journal.read_bytes() if journal and journal.exists() else b""
        end = content.rfind(b"\n") + 1
        files = self._files()
        runs: dict[str, Files] = {}
        single: Files = {}
        for name, status in files.items():
            run = layout.run_of(name)
            if run is not None:
                runs.setdefault(run, {})[name] = status
            is_single = run is None and name != layout.journal and (is_last or name not in layout.sent_at_end)
            if (is_single or name == layout.marker) and self._is_to_put(name, status, is_last):
                single[name] = status
        changed = [run for run in runs if self._is_due(run, runs[run], is_last)]
        # Without a journal there are no trials, but replications and RUN do not wait for one.
        trials = [run for run in changed if self._is_trial(run)] if content else []
        others = [run for run in changed if not self._is_trial(run)]
        is_grown = end > 0 and self._journal_end != end
        if not (changed or single or is_grown):
            return
        self._check_not_superseded()
        if layout.marker in files:
            self._put(layout.marker, files[layout.marker])
        for_each(lambda run: self._send_run(run, runs[run]), trials)
        if is_grown:
            assert layout.journal is not None
            # Not a line that is only half written.
            with (self._place / layout.journal).writing() as file:
                file.write(content[:end])
            self._journal_end = end
        for_each(lambda run: self._send_run(run, runs[run]), others)
        for_each(lambda name: self._put(name, single[name]), list(single))

    def _files(self) -> Files:
        return list_files(self._copy, self._layout.never_sent)

    def _is_trial(self, run: str) -> bool:
        return bool(self._layout.trials) and run.startswith(f"{self._layout.trials}/")

    def _check_not_superseded(self) -> None:
        found = read_mirror(self._place)
        if found.get("copy") != self._id:
            self._is_superseded = True
            raise StepError(f"{self._place} was resumed on {found.get('node', 'another machine')}: it ends here")

    def _is_due(self, run: str, files: Files, is_last: bool) -> bool:
        """Whether a run has changed and is to be sent: it has ended, or was not sent for a while."""
        if self._runs.get(run) == files:
            return False
        if self._layout.has_ended(self._copy / run):
            return True
        # Before its first checkpoint it cannot be resumed anyway.
        since = time.monotonic() - self._zipped_at.setdefault(run, time.monotonic())
        return (is_last or since >= _RUNNING_EVERY_S) and any(map(self._layout.is_checkpoint, files))

    def _is_to_put(self, name: str, status: tuple[int, int, int], is_last: bool) -> bool:
        """Whether a single file has changed and is to be sent: not too often if it grows."""
        since = time.monotonic() - self._put_at.get(name, -math.inf)
        return self._sent.get(name) != status and (is_last or since >= _RUNNING_EVERY_S)

    def _send_run(self, run: str, files: Files) -> None:
        place = self._place / run if run else self._place
        if not self._layout.has_ended(self._copy / run):
            place.mkdir()
            self._send_zipped(run, place / RUNNING)
        else:
            keeps = self._layout.keeps_checkpoints
            names = [name for name in files if keeps or not self._layout.is_checkpoint(name)]
            for name in sorted(names, key=self._layout.order):
                self._put(name, files[name])
            if run in self._zipped:
                (place / RUNNING).remove()
                self._zipped.discard(run)
        self._runs[run] = files

    def _send_zipped(self, run: str, target: Location) -> None:
        """Sends all files of a run as one object, as they are at one moment."""

        def look() -> Files:
            return {name: status for name, status in self._files().items() if self._layout.run_of(name) == run}

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
            put(self._copy, self._place, name)
            self._sent[name], self._put_at[name] = status, time.monotonic()


def read_mirror(place: Location) -> dict[str, Any]:
    """The content of mirror.json in a bucket; {} where there is none, or it can't be read."""
    try:
        found = json.loads((place / MIRROR_JSON).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
