"""ttrnn_watch of the C code: the events that ttrnn/events.py defines, in float32 and int8."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ttrnn.portable.test_c import SANITIZED, needs_gcc, weights_of
from tests.ttrnn.test_export_onnx import clips, make
from ttrnn.events import Event, EventDetector, EventRule, StaggeredStates
from ttrnn.portable.c import c_files
from ttrnn.portable.c_export import export_c
from ttrnn.portable.c_tables import thresholds, watch_bytes
from ttrnn.portable.weights import ModelWeights

# Prints scores and events of frames from standard input, which are given line by line, every other one whole. Frames
# have numbers from the first argument on.
PROGRAM = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
const uint8_t *given;
#include "model.c"

typedef char watch_has_the_size_that_the_header_names[sizeof(ttrnn_watch) == BYTES ? 1 : -1];

static void tell(const char *what, uint32_t t, int label, const ttrnn_event *event)
{
    printf("%s %u %d %u %u %u %.17g\n", what, (unsigned)t, label, (unsigned)event->start, (unsigned)event->detected,
           (unsigned)event->end, event->score / (double)TTRNN_SCORE_ONE);
}

int main(int count, char **arguments)
{
    static ttrnn_watch watch;
    static uint8_t frame[TTRNN_HEIGHT][TTRNN_WIDTH * TTRNN_CHANNELS];
    uint32_t t = 0;
    memset(&watch, 255, sizeof watch);
    ttrnn_watch_reset(&watch);
    watch.num_frames = count > 1 ? (uint32_t)strtoul(arguments[1], 0, 10) : 0;
    for (; fread(frame, sizeof frame, 1, stdin) == 1; t++) {
        given = frame[0];
        for (int line = 0; t % 2 && line < TTRNN_HEIGHT; line++) {
            if (ttrnn_watch_line(&watch, frame[line]) != (line == TTRNN_HEIGHT - 1)) {
                return 1;
            }
        }
        if (t % 2 == 0) {
            ttrnn_watch_frame(&watch, frame[0]);
        }
        printf("scores");
        for (int i = 0; i < TTRNN_CLASSES; i++) {
            printf(" %.17g", watch.scores[i] / (double)TTRNN_SCORE_ONE);
        }
        printf("\n");
        for (int i = 0; i < TTRNN_CLASSES; i++) {
            if (watch.is_over[i]) {
                tell("over", t, i, watch.over + i);
            }
            if (watch.has_started[i]) {
                tell("started", t, i, watch.events + i);
            }
        }
    }
    for (int i = 0; i < TTRNN_CLASSES; i++) {
        if (watch.is_open[i]) {
            tell("over", t, i, watch.events + i);
        }
    }
    return 0;
}
"""
# Scores of frames 0, 1, ..; the events by (start, detected, end, score), and the frames at which they are over.
EVENTS: list[tuple[list[float], list[tuple[int, int, int, float]], list[int]]] = [
    ([0, 0, 0, 0.5, 0, 0, 0, 0, 0, 0], [(0, 3, 4, 0.5)], [8]),
    ([0, 0, 0, 0.49, 0, 0, 0, 0, 0, 0], [], []),
    ([0.9, 0.9, 0, 0, 0, 0, 0, 0], [], []),
    ([0.9, 0.9, 0.7, 0, 0, 0, 0, 0], [(0, 2, 3, 0.7)], [6]),
    ([0, 0, 0, 0.6, 0.9, 0.7, 0, 0, 0, 0], [(0, 3, 6, 0.9)], [10]),
    ([0, 0, 0, 0.6, 0, 0, 0, 0.8], [(0, 3, 8, 0.8)], [8]),
    ([0, 0, 0, 0.6, 0, 0, 0, 0, 0.8], [(0, 3, 4, 0.6), (6, 8, 9, 0.8)], [8, 9]),
]
Told = list[tuple[int, Event]]


def build(weights: Any, rule: EventRule, folder: Path, scores: str = "") -> Path:
    """Compiles the program; with C code for the score of all classes in the place of the model's."""
    for name, text in c_files(weights, events=rule.to_dict()).items():
        asked = "ttrnn_scores(oldest, watch->scores)"
        assert text.count(asked) == (name == "model.c")
        told = f"for (int i = 0; i < TTRNN_CLASSES; i++) watch->scores[i] = (ttrnn_score)({scores})"
        (folder / name).write_text(text.replace(asked, told) if scores else text)
    size = watch_bytes(weights, rule.to_dict())
    assert f" {size:,} bytes, its states included" in (folder / "model.h").read_text()
    (folder / "watch.c").write_text(PROGRAM.replace("BYTES", str(size)))
    subprocess.run(["gcc", *SANITIZED, "-o", "watch", "watch.c", "-lm"], cwd=folder, check=True)
    return folder / "watch"


def watched(program: Path, classes: Any, frames: Any, begin: int = 0) -> tuple[list[list[float]], Told, Told]:
    """Scores by frame, events that started and those that are over, with the frames at which this was told."""
    data = np.ascontiguousarray(frames).tobytes()
    done = subprocess.run([program, str(begin)], input=data, capture_output=True, check=True)
    scores, told = list[list[float]](), dict[str, Told](started=[], over=[])
    for line in done.stdout.decode().splitlines():
        what, *rest = line.split()
        if what == "scores":
            scores.append([float(value) for value in rest])
        else:
            t, label, *places = map(int, rest[:-1])
            told[what].append((t, Event(classes[label], *places, float(rest[-1]))))
    return scores, told["started"], told["over"]


@needs_gcc
@pytest.mark.parametrize("form", ["float32", "int8"])
def test_events_are_those_of_the_definition(form: str, tmp_path: Path) -> None:
    model = make(width=4, height=3, in_modes="6x6", hidden_modes="2x2", ranks="2")
    classes = model.config.classes
    rule = EventRule(window=4, hop=2, thresholds={classes[1]: 0.5})
    program = build(weights_of(model, form, clips(model, 1, 2)), rule, tmp_path, "*given * TTRNN_SCORE_ONE / 100")
    # Numbers of frames wrap at 2^32.
    for begin in (0, 2**32 - 5):
        for scores, events, ends in EVENTS:
            frames = np.ones((len(scores), 3, 4, 3), np.uint8) * np.rint(100 * np.array(scores))[:, None, None, None]
            _, started, over = watched(program, classes, frames.astype(np.uint8), begin)
            places = [tuple((begin + t) % 2**32 for t in event[:3]) for event in events]
            assert [(event.start, event.detected, event.end) for _, event in over] == places
            assert [event.score for _, event in over] == pytest.approx([event[3] for event in events], abs=4e-5)
            assert [t for t, _ in over] == ends
            assert [(event.label, t) for t, event in started] == [(classes[1], event[1]) for event in events]


@needs_gcc
@pytest.mark.parametrize(("form", "window", "hop"), [("float32", 6, 2), ("int8", 6, 2), ("int8", 3, 3)])
def test_a_model_gives_the_events_of_python(form: str, window: int, hop: int, tmp_path: Path) -> None:
    model = make(stem="conv", in_modes="2x2x16", differences="extra", pooling="mean")
    frames, classes = clips(model, 1, 40)[0], model.config.classes
    weights = weights_of(model, form, clips(model, 1, 4))
    states = StaggeredStates(lambda: model.stream().push, EventRule(window=window, hop=hop, thresholds={}))
    expected = np.stack([states.push(frame).numpy() for frame in frames])
    # Of all classes but the last; half of the frames are above.
    limits = {name: float(np.median(expected[:, i])) for i, name in enumerate(classes[:-1])}
    rule = EventRule(window=window, hop=hop, thresholds=limits)
    scores, started, over = watched(build(weights, rule, tmp_path), classes, frames.numpy())
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5 if form == "float32" else 0.02)
    if form == "int8":
        parts = [frames.numpy()[rule.first(t) : t + 1] for t in range(len(frames))]
        np.testing.assert_array_equal(np.array(scores) * 32768, [weights(part)[1][-1] for part in parts])
    detector = EventDetector(rule, classes)
    wanted_started, wanted_over = Told(), Told()
    for t, row in enumerate(scores):
        wanted_over += [(t, event) for event in detector.push(row)]
        wanted_started += [(t, event) for event in detector.started]
    wanted_over += [(len(scores), event) for event in detector.finish()]
    assert len(started) > 1
    assert started == wanted_started
    # Those of a frame come in the order of classes.
    assert over == sorted(wanted_over, key=lambda told: (told[0], classes.index(told[1].label)))


@needs_gcc
def test_main_prints_the_events(tmp_path: Path) -> None:
    model = make(width=4, height=3, in_modes="6x6", hidden_modes="2x2", ranks="2")
    frames, classes = clips(model, 1, 60)[0], model.config.classes
    states = StaggeredStates(lambda: model.stream().push, EventRule(window=4, hop=2, thresholds={}))
    scores = [states.push(frame).tolist() for frame in frames]
    # Half of the frames are above.
    limits = dict(zip(classes, np.median(scores, axis=0).tolist(), strict=True))
    rule = EventRule(window=4, hop=2, thresholds=limits)
    for name, text in c_files(ModelWeights.of(model), events=rule.to_dict()).items():
        (tmp_path / name).write_text(text)
    subprocess.run(["make", "-s", "CC=gcc", f"CFLAGS={' '.join(SANITIZED)}"], cwd=tmp_path, check=True)
    detector = EventDetector(rule, classes)
    started, over = list[Event](), list[Event]()
    for row in scores:
        over += detector.push(row)
        started += detector.started
    over += detector.finish()
    wanted = {f"{event.label} detected at frame {event.detected}": 0.0 for event in started}
    wanted |= {f"{each.label} over: frames {each.start} to {each.end - 1}": each.score for each in over}
    data = frames.numpy().tobytes()
    done = subprocess.run([tmp_path / "model"], input=data, capture_output=True, check=True)
    assert len(started) == len(over) > 5
    found = [line.partition(", score ") for line in done.stdout.decode().splitlines()]
    assert {line: float(score or 0) for line, _, score in found} == pytest.approx(wanted, abs=1e-4)
    # The open event is over at the end of the stream; a frame that is cut off is none.
    done = subprocess.run([tmp_path / "model"], input=data + b"1", capture_output=True, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (1, len(wanted))
    assert done.stderr == b"the last frame has 1 bytes, not 36\n"


def test_thresholds_are_rounded_up_to_a_score_of_the_form() -> None:
    model = make()
    first, second, *others = model.config.classes
    events = {"window": 2, "hop": 1, "thresholds": {first: 0.5, second: 0.5 + 2**-30}}
    found = thresholds(weights_of(model, "int8", clips(model, 1, 2)), events)
    assert found[:2].tolist() == [16384, 16385]
    assert (found[2:] > 32768).all()
    found = thresholds(weights_of(model, "float32", None), events)
    assert found[:2].tolist() == [0.5, 0.5 + 2**-24]
    assert len(found) == 2 + len(others)
    assert (found[2:] > 1).all()


def test_only_a_model_with_events_has_a_watch(tmp_path: Path) -> None:
    weights = weights_of(make(), "float32", None)
    assert not any("watch" in text.lower() or "event" in text.lower() for text in c_files(weights).values())
    events = {"window": 2, "hop": 1, "thresholds": {}}
    assert export_c(make(), tmp_path / "c", events=events)["watch_bytes"] == watch_bytes(weights, events)
    assert "ttrnn_watch_line(" in (tmp_path / "c" / "sketch.ino").read_text()
    assert "ttrnn_watch_line(" in (tmp_path / "c" / "model.h").read_text()
    assert "ttrnn_watch_line(" in (tmp_path / "c" / "model.c").read_text()
