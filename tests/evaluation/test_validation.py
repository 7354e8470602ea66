"""pipelines/evaluation/validation.py: losses with smoothed labels; each clip of a split is predicted once."""

import pytest
import torch

from pipelines.data.dataset import ShardDataset
from pipelines.evaluation.validation import losses, predict_split, validate
from tests.shards import make_shards
from ttrnn.model import ModelConfig, VideoClassifier


def test_without_smoothing_losses_are_the_negative_log_probabilities_of_the_labels():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.0, 1.0]])
    expected = -logits.log_softmax(1)[torch.arange(2), torch.tensor([0, 2])]
    torch.testing.assert_close(losses(logits, torch.tensor([0, 2])), expected)
    several = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    right = torch.where(several > 0, logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(losses(logits, several), -right.log().mean(dim=1))


@pytest.mark.parametrize("several", [False, True], ids=["one label", "several labels"])
def test_the_loss_of_smoothed_labels_is_least_at_smoothed_probabilities(several):
    labels = torch.tensor([[1.0, 0.0, 0.0]]) if several else torch.tensor([0])
    # A share of 0.3 is spread over 3 classes, or over the 2 outcomes of each class.
    best = torch.tensor([[0.85, 0.15, 0.15]]).logit() if several else torch.tensor([[0.8, 0.1, 0.1]]).log()
    best.requires_grad_()
    losses(best, labels, 0.3).sum().backward()
    torch.testing.assert_close(best.grad, torch.zeros_like(best), rtol=0, atol=1e-6)


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_the_workers_predict_each_clip_once(tmp_path, world_size):
    data = ShardDataset.open(make_shards(tmp_path / "shards", num_clips=21))
    split = data.split("val")
    torch.manual_seed(0)
    model = VideoClassifier(ModelConfig(width=8, height=4, channels=1, classes=data.classes, hidden_modes="2x2x2"))
    whole, order, whole_loss = predict_split(model, split, 3)
    parts = [predict_split(model, split, 3, rank=rank, world_size=world_size) for rank in range(world_size)]
    indices = [index for _, own, _ in parts for index in own]
    assert sorted(indices) == sorted(order) == list(range(len(split)))
    rows = dict(zip(order, whole, strict=True))
    for scores, own, _ in parts:
        for index, row in zip(own, scores, strict=True):
            assert row == pytest.approx(rows[index], abs=1e-6)
    assert sum(loss for *_, loss in parts) == pytest.approx(whole_loss, rel=1e-5)
    metric, loss, *_ = validate(model, split, 3)
    hits = sum(rows[index].argmax() == split.labels[index][0] for index in order)
    assert (metric, loss) == pytest.approx((hits / len(split), whole_loss / len(split)))
