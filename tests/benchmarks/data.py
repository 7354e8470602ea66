"""Benchmark preprocessing: throughput compared with a plain loop, memory, a large catalogue, and kill -9.

    python -m tests.benchmarks.data                                on rendered videos
    python -m tests.benchmarks.data --videos VIDEOS_OR_CSV --rounds 5
    python -m tests.benchmarks.data --sections kills

Prints a Markdown table. Every contender runs once per round; figures are medians (minimum to maximum).
"""

import csv
import hashlib
import itertools
import logging
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.cluster.session import start_ray
from pipelines.core import command
from pipelines.data.catalog import read_catalog
from pipelines.data.options import PreprocessOptions
from pipelines.data.splits import SplitOptions
from pipelines.preprocess import preprocess

__all__ = ["DataOptions", "data"]

log = logging.getLogger("tests.benchmarks")

_REPO = Path(__file__).parents[2]
_MARK = "TTRNN_BENCHMARK"
_WIDTH, _HEIGHT = 160, 120


@dataclass(frozen=True, kw_only=True, slots=True)
class DataOptions:
    """Benchmark preprocessing."""

    videos: str | None = None
    """folder of videos or CSV; default: rendered videos, 320x240, MPEG-4"""
    sections: str = "throughput,memory,catalogue,kills"
    """names of the sections to measure, separated by commas"""
    rounds: int = 5
    """number of rounds, in each of which every contender runs once"""
    scratch: str | None = None
    """directory for shards; default: the directory for temporary files of the system"""
    seed: int = 0
    """seed of the times of kill -9"""


def data(options: DataOptions) -> dict[str, Any]:
    """Runs the sections; rows are (section, what, figure)."""
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        place = Path(scratch)
        videos = _clips(options.videos) if options.videos else _render(place / "rendered")
        log.info("%d videos, %d cores", len(videos), os.cpu_count())
        for name in options.sections.split(","):
            for what, figure in _SECTIONS[name](place, videos, options):
                log.info("%s: %s: %s", name, what, figure)
                rows.append((name, what, figure))
    return {"rows": rows}


def _clips(videos: str) -> list[tuple[str, str]]:
    """(path, class) of every video."""
    catalog = read_catalog(videos, splits=SplitOptions(allow_group_leak=True))
    return [(clip.path, catalog.classes[clip.labels[0]]) for clip in catalog.clips]


def _render(folder: Path, num_classes: int = 8, num_clips: int = 12, num_frames: int = 150) -> list[tuple[str, str]]:
    """Renders clips of moving stripes with noise, which take as long to decode as those of a camera."""
    rng, clips = np.random.default_rng(0), []
    y, x = np.mgrid[:240, :320]
    for label, number in itertools.product(range(num_classes), range(num_clips)):
        path = folder / f"class {label}" / f"{number:03}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"XVID"), 25, (320, 240))
        noise = rng.normal(0, 6, (240, 320, 3))
        for t in range(num_frames):
            wave = (
                np.sin((x + (label - 4) * t) / 9 + number)[..., None]
                * np.cos((y + t) / [11, 13, 17][number % 3])[..., None]
            )
            writer.write(np.clip(128 + 80 * wave + np.roll(noise, t, axis=1), 0, 255).astype(np.uint8))
        writer.release()
        clips.append((str(path), path.parent.name))
    return clips


def _write_csv(file: Path, clips: Sequence[tuple[str, str]], times: int = 1) -> Path:
    """Writes a catalogue with each clip `times` times, through links with different names."""
    links = file.with_suffix("")
    links.mkdir(parents=True)
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["path", "label", "group", "split"])
        for copy, (number, (path, label)) in itertools.product(range(times), enumerate(clips)):
            link = links / f"{copy:03}-{number:06}{Path(path).suffix}"
            link.symlink_to(os.path.abspath(path))
            writer.writerow([link.relative_to(file.parent), label, "", ""])
    return file


def _decode_bare(work: tuple[str, int, str | None]) -> int:
    """Decodes and resizes; with a file, also computes SHA-256 and writes the bytes to the disk, like shards."""
    path, num_threads, target = work
    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, num_threads] if num_threads else [])
    num_frames, frames = 0, []
    while True:
        there, image = capture.read()
        if not there:
            break
        small = cv2.resize(image, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)
        num_frames += 1
        if target:
            frames.append(small)
    if target and frames:
        clip = np.stack(frames)
        hashlib.sha256(clip)  # type: ignore[arg-type]
        with open(target, "wb") as file:
            file.write(clip.data)
            file.flush()
            os.fsync(file.fileno())
    return num_frames


def _throughput(place: Path, videos: list[tuple[str, str]], options: DataOptions) -> Iterator[tuple[str, str]]:
    num_cores = len(os.sched_getaffinity(0))
    catalogue, out, raw = _write_csv(place / "throughput.csv", videos), place / "shards", place / "raw"
    shared: dict[str, Any] = {"videos": str(catalogue), "out": str(out), "width": _WIDTH, "height": _HEIGHT}
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    with multiprocessing.get_context("spawn").Pool(num_cores) as pool, start_ray(num_cpus=num_cores):

        def bare(num_threads: int, write: bool = False) -> None:
            work = [(path, num_threads, str(raw / str(i)) if write else None) for i, (path, _) in enumerate(videos)]
            pool.map(_decode_bare, work, chunksize=1)

        def ours(**others: Any) -> None:
            preprocess(PreprocessOptions(**shared, **others))

        def whole() -> None:
            subprocess.run(
                [sys.executable, "-m", "pipelines.preprocess", str(catalogue), str(out)],
                cwd=_REPO,
                check=True,
                capture_output=True,
                env={**os.environ, "RAY_ADDRESS": "local"},
            )

        contenders: dict[str, Callable[[], None]] = {
            "bare loop": lambda: bare(1),
            "bare loop, OpenCV's own threads": lambda: bare(0),
            "bare loop + SHA-256 + fsync": lambda: bare(1, write=True),
            "preprocess, Ray running": lambda: ours(),
            "preprocess --num-frames 24, Ray running": lambda: ours(num_frames=24),
            "preprocess, whole command": whole,
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(options.rounds + 1):
            for name, call in contenders.items():
                shutil.rmtree(out, ignore_errors=True)
                shutil.rmtree(raw, ignore_errors=True)
                raw.mkdir()
                start = time.perf_counter()
                call()
                # The first round is a warm-up.
                if number:
                    times[name].append(time.perf_counter() - start)
        num_frames = sum(pool.map(_decode_bare, [(path, 1, None) for path, _ in videos], chunksize=1))
    yield "frames", f"{num_frames:,}"
    for name, seconds in times.items():
        ratios = [first / own for first, own in zip(times["bare loop"], seconds, strict=True)]
        yield (
            name,
            f"{_spread(seconds)} s, {num_frames / statistics.median(seconds):,.0f} frames/s, ratio {_spread(ratios)}",
        )


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def _marked(mark: str) -> list[int]:
    """Processes with the mark in their environment, including descendants."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            pass
    return found


def _own_bytes(pid: int) -> int:
    """Memory of a process that is not a mapped file: anonymous memory, and its part of shared memory."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return sizes["Pss_Anon"] + sizes["Pss_Shmem"]


def _command(videos: Path, out: Path, mark: str, *others: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.preprocess", str(videos), str(out), *others],
        cwd=_REPO,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, _MARK: mark, "RAY_ADDRESS": "local"},
    )


def _memory(place: Path, videos: list[tuple[str, str]], options: DataOptions) -> Iterator[tuple[str, str]]:
    for times in (1, 10):
        catalogue, out, mark = (
            _write_csv(place / f"memory-{times}.csv", videos, times),
            place / "shards",
            uuid.uuid4().hex,
        )
        shutil.rmtree(out, ignore_errors=True)
        process = _command(catalogue, out, mark, "--width=64", "--height=48")
        peak, driver = 0, 0
        while process.poll() is None:
            sizes = {pid: _own_bytes(pid) for pid in _marked(mark)}
            peak, driver = max(peak, sum(sizes.values())), max(driver, sizes.get(process.pid, 0))
            time.sleep(0.1)
        assert process.returncode == 0, process.stderr and process.stderr.read()
        yield (
            f"{len(videos) * times:,} clips",
            f"peak of all processes {peak / 1e6:,.0f} MB, driver {driver / 1e6:,.0f} MB",
        )


def _catalogue(place: Path, videos: list[tuple[str, str]], options: DataOptions) -> Iterator[tuple[str, str]]:
    """Measures listing, splits and plan of 100,000 empty files."""
    folder = place / "many"
    for label in range(100):
        (folder / f"class {label:03}").mkdir(parents=True)
        for number in range(1000):
            (folder / f"class {label:03}" / f"{number:04}.avi").touch()
    script = (
        "import resource, sys, time\n"
        "from pipelines.data import preprocessing as step\n"
        "from pipelines.storage.location import Location\n"
        "before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()\n"
        "options = step.PreprocessOptions(videos=sys.argv[1], out=sys.argv[2])\n"
        "catalog = step.read_catalog(options.videos)\n"
        "listed = time.perf_counter()\n"
        "out = Location.of(sys.argv[2]); out.mkdir()\n"
        "plan = step._grow(step.Plan(options.settings()), catalog, out, options, ())\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(listed - start, time.perf_counter() - listed, before / 1e3, after / 1e3, len(plan.shards))\n"
    )
    command = [sys.executable, "-c", script, str(folder), str(place / "planned")]
    result = subprocess.run(command, cwd=_REPO, check=True, capture_output=True, text=True)
    listing, planning, before, after, num_shards = result.stdout.split()
    yield "100,000 clips, listing and splits", f"{float(listing):.1f} s"
    yield f"100,000 clips, plan of {num_shards} shards, written", f"{float(planning):.1f} s"
    yield "100,000 clips, memory", f"{float(after):,.0f} MB, {float(before):,.0f} MB of it before"


def _kills(place: Path, videos: list[tuple[str, str]], options: DataOptions) -> Iterator[tuple[str, str]]:
    """Ten times: kills a process at a random time, resumes, and compares with an uninterrupted run."""
    catalogue, rng = _write_csv(place / "kills.csv", videos), random.Random(options.seed)
    start = time.monotonic()
    wanted = _uninterrupted(catalogue, place / "undisturbed")
    duration = time.monotonic() - start
    equal, victims = 0, []
    for number in range(10):
        out, mark = place / f"killed-{number}", uuid.uuid4().hex
        process = _command(catalogue, out, mark)
        drained = threading.Thread(target=lambda process=process: process.stderr and process.stderr.read())  # type: ignore[misc]
        drained.start()
        time.sleep(rng.uniform(0.1, 1) * duration)
        if number % 2:
            victims.append(_kill(process.pid, mark, rng))
        else:
            process.kill()
            victims.append("driver")
        process.wait()
        drained.join()
        for _ in range(2):
            if (out / "dataset.json").exists():
                break
            resume = ["--resume"] if (out / "preprocess.json").exists() else []
            done = _command(catalogue, out, uuid.uuid4().hex, *resume)
            done.communicate()
        equal += _digests(out) == wanted
        shutil.rmtree(out)
    yield "identical to an uninterrupted run", f"{equal} of 10 (killed: {', '.join(victims)})"


def _kill(driver: int, mark: str, rng: random.Random) -> str:
    """Kills a worker or a decoder, or the driver if there are none; returns the kind of process."""
    others = [pid for pid in _marked(mark) if _title(pid).startswith("ray::") or "_serve" in _title(pid)]
    pid = rng.choice(others or [driver])
    title = _title(pid)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return "none, it had finished"
    return "driver" if pid == driver else "decoder" if "_serve" in title else "worker"


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _uninterrupted(catalogue: Path, out: Path) -> dict[str, str]:
    process = _command(catalogue, out, uuid.uuid4().hex)
    _, messages = process.communicate()
    assert process.returncode == 0, messages.decode()
    return _digests(out)


def _digests(out: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in out.iterdir() if file.name[0] != "."}


_SECTIONS = {"throughput": _throughput, "memory": _memory, "catalogue": _catalogue, "kills": _kills}


def summary(result: dict[str, Any]) -> str:
    """A Markdown table."""
    lines = ["| section | what | figure |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in result["rows"])]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return command.run(DataOptions, data, summary, argv)


if __name__ == "__main__":
    from tests.benchmarks.data import main as importable_main

    sys.exit(importable_main())
