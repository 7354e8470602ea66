"""Test training/teacher.py: the loss against its definition, and what a teacher must have in common with the data."""

import dataclasses

import pytest
import torch

import ttrnn
from pipelines.core.errors import UserError
from pipelines.training.options import TrainOptions
from pipelines.training.run_directory import RunDirectory
from pipelines.training.teacher import Teacher, teacher_macs
from pipelines.training.trainer import fit
from tests.shards import make_shards
from ttrnn.model import ModelConfig, VideoClassifier


def config(**changes):
    return ModelConfig(
        **{"width": 4, "height": 2, "channels": 1, "hidden_modes": "2x2", "in_modes": "2x4", "ranks": "2"}
        | {"classes": ("a", "b", "c"), **changes}
    )


@pytest.fixture
def paths(tmp_path):
    """Two teachers."""
    torch.manual_seed(0)
    for name in ("first", "second"):
        ttrnn.save(VideoClassifier(config()), tmp_path / name)
    return [str(tmp_path / name) for name in ("first", "second")]


def clips(num_clips=4):
    torch.manual_seed(1)
    return [torch.randint(0, 256, (length, 2, 4, 1), dtype=torch.uint8) for length in range(5, 5 - num_clips, -1)]


def test_the_loss_is_that_of_hinton_for_the_mean_logits_of_the_teachers(paths):
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), requires_grad=True)
    losses = torch.tensor([0.1, 0.2, 0.3, 0.4])
    mixed = Teacher(paths, config(), weight=0.6, temperature=2.5).mixed(losses, logits, clips())
    with torch.no_grad():
        taught = sum(ttrnn.load(path)(clips()) for path in paths) / 2
    for clip in range(4):
        target = (taught[clip] / 2.5).softmax(0)
        own = (logits[clip] / 2.5).log_softmax(0)
        distance = sum(p * (p.log() - q) for p, q in zip(target, own, strict=True))
        torch.testing.assert_close(mixed[clip], 0.4 * losses[clip] + 0.6 * 2.5**2 * distance)
    mixed.sum().backward()
    assert logits.grad.abs().min() > 0


def test_with_several_labels_each_class_is_compared_by_itself(tmp_path):
    torch.manual_seed(0)
    several = config(task="multi_label")
    ttrnn.save(VideoClassifier(several), tmp_path / "teacher")
    logits, losses = torch.randn(4, 3), torch.zeros(4)
    mixed = Teacher([str(tmp_path / "teacher")], several, weight=1.0, temperature=3.0).mixed(losses, logits, clips())
    with torch.no_grad():
        p, q = (ttrnn.load(tmp_path / "teacher")(clips()) / 3).sigmoid(), (logits / 3).sigmoid()
    distance = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(mixed, 9 * distance.mean(dim=1))


def test_a_model_that_gives_the_scores_of_its_teacher_has_no_distance(paths):
    with torch.no_grad():
        logits = ttrnn.load(paths[0])(clips())
    mixed = Teacher(paths[:1], config(), weight=1.0, temperature=3.0).mixed(torch.ones(4), logits, clips())
    torch.testing.assert_close(mixed, torch.zeros(4))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ("a", "b", "d")}, r"--teacher .*first has classes \('a', 'b', 'c'\), the data \('a', 'b', 'd'\)"),
        ({"width": 8, "in_modes": "2x8"}, "has width 4, the data 8; give a model that was trained on this data"),
        ({"task": "multi_label"}, "has task single_label, the data multi_label"),
    ],
)
def test_a_teacher_of_other_data_is_refused(paths, changes, words):
    with pytest.raises(UserError, match=words):
        Teacher(paths, config(**changes), weight=0.5, temperature=2.0)


def test_a_teacher_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"teacher.*nowhere is not a model directory"):
        Teacher([str(tmp_path / "nowhere")], config(), weight=0.5, temperature=2.0)


@pytest.mark.parametrize(
    ("name", "value"), [("teacher_weight", 1.5), ("teacher_weight", -0.1), ("teacher_temperature", 0.0)]
)
def test_weight_and_temperature_have_a_range(name, value):
    with pytest.raises(ValueError, match=f"{name}.* got {value}"):
        TrainOptions(shards="shards", out="run", **{name: value})


def test_the_macs_of_teachers_add_up(paths):
    assert teacher_macs(None) == 0
    assert teacher_macs(",".join(paths)) == 2 * config().multiply_adds


def test_a_taught_training_follows_its_teacher_and_resumes_to_the_bit(tmp_path):
    shards = make_shards(tmp_path / "shards")
    common = {"shards": str(shards), "hidden_modes": "2x2x2x2", "precision": "float32", "epochs": 3, "lr": 0.01}

    def run(name, after=None, **changes):
        options = TrainOptions(**{**common, "out": str(tmp_path / name), **changes})
        (tmp_path / name).mkdir(exist_ok=True)

        def kill(record):
            if record["epoch"] == after:
                raise KeyboardInterrupt

        fit(options, kill)
        return RunDirectory(tmp_path / name)

    large = run("large", ranks="4", epochs=12)
    plain, taught = run("plain"), run("taught", teacher=str(large.model), teacher_weight=1.0)
    weights = {name: ttrnn.load(each.model).state_dict() for name, each in (("plain", plain), ("taught", taught))}
    assert any(not torch.equal(weights["plain"][name], tensor) for name, tensor in weights["taught"].items())
    with pytest.raises(KeyboardInterrupt):
        run("killed", after=2, teacher=str(large.model), teacher_weight=1.0)
    killed = run("killed", teacher=str(large.model), teacher_weight=1.0)
    again = ttrnn.load(killed.model).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in weights["taught"].items())
    # With no weight, only the labels count.
    ignored = run("ignored", teacher=str(large.model), teacher_weight=0.0)
    same = ttrnn.load(ignored.model).state_dict()
    assert all(torch.equal(same[name], tensor) for name, tensor in weights["plain"].items())
    assert dataclasses.asdict(ttrnn.load(taught.model).config) == dataclasses.asdict(ttrnn.load(plain.model).config)
