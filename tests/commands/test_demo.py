"""The demo data set: a model needs the order of the frames, and TT ranks above 1.

Legend: T time, H W C frame height, width and colour channels.
"""

import contextlib
import errno
import json
import math
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.data import demo_streams
from pipelines.data import demo_videos as demo
from pipelines.data.streams import read_truths
from pipelines.demo import main
from pipelines.storage.location import Location
from pipelines.video.decode import decode
from pipelines.video.frame import FrameSize
from pipelines.video.sampling import Sampling
from ttrnn.model import ModelConfig, VideoClassifier

NUM_CLIPS, NUM_TRAIN = 960, 420
CHANCE = 1 / len(demo.CLASSES)


def read_clips(out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels as a model gets them, clips x T x H x W x C, and labels, in the order in which they were drawn."""
    paths = sorted(out.glob("*/*.avi"), key=lambda path: path.name)
    frame = FrameSize(demo.WIDTH, demo.HEIGHT, demo.CHANNELS)
    clips = np.stack([decode(path, frame, Sampling()).frames for path in paths])
    return clips, np.array([demo.CLASSES.index(path.parent.name) for path in paths])


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    return read_clips(demo.render_demo(tmp_path_factory.mktemp("demo") / "out", NUM_CLIPS, seed=0))


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_files_and_another_seed_other_ones(tmp_path: Path) -> None:
    first, again, other = (
        contents(demo.render_demo(tmp_path / name, 16, seed))
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert first == again
    assert first.keys() == other.keys()
    assert not any(first[name] == other[name] for name in first)


def test_more_clips_do_not_change_the_first_ones(tmp_path: Path) -> None:
    few, many = (contents(demo.render_demo(tmp_path / str(count), count, seed=0)) for count in (8, 20))
    assert {name: many[name] for name in few if name.endswith(".avi")} == {
        name: few[name] for name in few if name.endswith(".avi")
    }


def test_files_hold_the_drawn_frames_in_balanced_class_folders(clips: tuple[np.ndarray, np.ndarray]) -> None:
    frames, labels = clips
    assert frames.shape == (NUM_CLIPS, demo.NUM_FRAMES, demo.HEIGHT, demo.WIDTH, demo.CHANNELS)
    assert np.ptp(np.bincount(labels, minlength=len(demo.CLASSES))) <= 1
    for index in (0, 5):
        drawn = demo.draw_clip(labels[index], np.random.default_rng([0, index]))
        grey = drawn @ np.array([0.114, 0.587, 0.299])
        assert np.abs(frames[index, ..., 0] - grey).mean() < 3


def stripe_turns(frames: np.ndarray) -> np.ndarray:
    """Clips x 3: the phase shift of each set of stripes per frame, by demodulation; its sign is the direction."""
    y, x = np.mgrid[: demo.HEIGHT, : demo.WIDTH]
    waves = np.stack(
        [np.exp(2j * np.pi * (y - slope * x) / period).ravel() for period, slope in ((11, 0.8), (11, -0.8), (7.5, 0))],
        axis=1,
    )
    pixels = frames.reshape(*frames.shape[:2], -1) - frames.mean(axis=(1, 2, 3, 4)).reshape(-1, 1, 1)
    phasors = pixels @ waves
    return np.angle((phasors[:, 1:] * phasors[:, :-1].conj()).sum(axis=1))


def linear_probe(features: np.ndarray, labels: np.ndarray) -> float:
    """Held-out accuracy of multinomial logistic regression, fitted on the first half of the clips."""
    half = len(labels) // 2
    x = torch.from_numpy(features.reshape(len(labels), -1)).double()
    x = (x - x[:half].mean(0)) / x[:half].std(0)
    y = torch.from_numpy(labels)
    weight = torch.zeros(x.shape[1], len(demo.CLASSES), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=30, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(x[:half] @ weight, y[:half]) + 0.01 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return float(((x[half:] @ weight).argmax(1) == y[half:]).double().mean())


VIEWS = {
    "first frame": lambda frames: frames[:, 0],
    "middle frame": lambda frames: frames[:, demo.NUM_FRAMES // 2],
    "last frame": lambda frames: frames[:, -1],
    "mean frame": lambda frames: frames.mean(axis=1),
}


def test_stripes_move_in_the_directions_of_the_class(clips: tuple[np.ndarray, np.ndarray]) -> None:
    frames, labels = clips
    directions = np.array(
        [[{"up": -1, "down": 1}[direction] for direction in name.split("-")] for name in demo.CLASSES]
    )
    turns = stripe_turns(frames[:240])
    assert (np.sign(turns) == directions[labels[:240]]).all(axis=1).mean() > 0.95
    # So the linear probe can learn the classes: from single frames, below, it cannot.
    assert linear_probe(turns, labels[:240]) > 0.95


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_linear_classifier_stays_within_five_points_of_chance(
    clips: tuple[np.ndarray, np.ndarray], view: Callable[[np.ndarray], np.ndarray]
) -> None:
    frames, labels = clips
    # On 480 held-out clips the standard error of chance is 1.5 points.
    assert abs(linear_probe(view(frames), labels) - CHANCE) < 0.05


def trained_accuracy(clips: tuple[np.ndarray, np.ndarray], ranks: str) -> float:
    """Held-out accuracy of the paper's TT-GRU after a short training on as many clips as the default data set has."""
    frames, labels = (torch.from_numpy(array) for array in clips)
    train = frames[:NUM_TRAIN].float()
    torch.manual_seed(0)
    model = VideoClassifier(
        ModelConfig(
            width=demo.WIDTH,
            height=demo.HEIGHT,
            channels=demo.CHANNELS,
            classes=demo.CLASSES,
            hidden_modes="4x4x4x4",
            ranks=ranks,
            mean=(float(train.mean()),),
            std=(float(train.std()),),
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    num_epochs, batch_size = 8, 16
    num_steps = num_epochs * math.ceil(NUM_TRAIN / batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, num_steps)
    for _ in range(num_epochs):
        for batch in torch.randperm(NUM_TRAIN).split(batch_size):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(frames[batch]), labels[batch]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return float((model(frames[NUM_TRAIN:]).argmax(1) == labels[NUM_TRAIN:]).double().mean())


def test_tt_gru_of_rank_4_exceeds_90_percent_and_rank_1_is_worse(clips: tuple[np.ndarray, np.ndarray]) -> None:
    rank_1, rank_4 = (trained_accuracy(clips, ranks) for ranks in ("1", "4"))
    assert rank_4 > 0.9
    assert rank_1 < rank_4 - 0.05


def test_an_interrupted_rendering_keeps_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = demo.render_demo(tmp_path / "out", 8, seed=0)
    before, draw_clip = contents(out), demo.draw_clip

    def interrupted_later(label: int, rng: np.random.Generator) -> np.ndarray:
        if label == 5:
            raise KeyboardInterrupt
        return draw_clip(label, rng)

    monkeypatch.setattr(demo, "draw_clip", interrupted_later)
    for target in (out, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            demo.render_demo(target, 8, seed=1)
    assert contents(out) == before
    assert list(tmp_path.iterdir()) == [out]


@contextlib.contextmanager
def files_limited_to(num_bytes: int) -> Iterator[None]:
    """Simulates a full disk: files cannot grow beyond this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_clip_that_does_not_fit_on_the_disk_is_an_error(tmp_path: Path) -> None:
    with files_limited_to(8192), pytest.raises(OSError, match=r"8,192 of [\d,]+ bytes") as caught:
        demo.render_demo(tmp_path / "out", 8, seed=0)
    assert caught.value.errno == errno.ENOSPC
    assert not any(tmp_path.iterdir())


def test_the_command_renders_and_returns_the_location(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    assert main([str(out), "--num-clips", "8", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["out"] == str(out)
    assert {path.name for path in out.iterdir() if path.is_dir()} == set(result["classes"]) == set(demo.CLASSES)
    first = contents(out)
    assert main([str(out), "--num-clips", "8", "--seed", "1", "--overwrite"]) == 0
    assert contents(out) != first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-clips", "7"], "num_clips must be at least 8"),
        (["--seed", "-1"], "seed must be 0 or more, got -1"),
        ([], "exists"),
    ],
    ids=["fewer clips than classes", "negative seed", "OUT exists"],
)
def test_a_mistake_of_the_user_gives_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    assert main([str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_streams_show_the_clips_that_their_table_names_and_stand_still_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_streams, "_NUM_VIDEOS", 2)
    out = tmp_path / "streams"
    assert main([str(out), "--streams", "1", "--seed", "3"]) == 0
    assert len(list((out / "background").glob("*.avi"))) == 2
    ((video, truths),) = read_truths(Location.of(out / "streams.csv")).items()
    assert sorted(truth.label for truth in truths) == sorted(demo.CLASSES)
    frames = decode(out / video, FrameSize(demo.WIDTH, demo.HEIGHT, 1), Sampling()).frames.astype(float)
    # Between two frames, noise changes everywhere; stripes that move change more. A cut changes the whole cloth.
    change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    moves = np.zeros(len(frames), bool)
    for truth in truths:
        start, end = round(truth.start_s * demo.FPS), round(truth.end_s * demo.FPS)
        assert end - start == demo.NUM_FRAMES
        moves[start:end] = True
    inside, outside = moves[1:] & moves[:-1], ~moves[1:] & ~moves[:-1]
    assert outside.sum() > 2 * inside.sum()
    assert np.percentile(change[outside], 90) < np.percentile(change[inside], 10)
    again = tmp_path / "again"
    assert main([str(again), "--streams", "1", "--seed", "3"]) == 0
    assert (again / video).read_bytes() == (out / video).read_bytes()
    assert main([str(again), "--streams", "0", "--overwrite"]) == 2
