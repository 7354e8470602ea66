"""ttrnn/pooling.py: clips of unequal length are pooled as each would be alone, at once and frame by frame."""

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from ttrnn.pooling import POOLINGS, Pooling

LENGTHS, SIZE = (5, 3, 3, 1), 6
POOLED = tuple(kind for kind in POOLINGS if kind != "last")


def by_the_book(kind, states_TH, query):
    """One clip's states, pooled."""
    if kind == "mean":
        return states_TH.sum(0) / len(states_TH)
    if kind == "max":
        return torch.stack([column[column.argmax()] for column in states_TH.t()])
    weights = torch.softmax(torch.stack([query @ state for state in states_TH]), dim=0)
    return sum(weight * state for weight, state in zip(weights, states_TH, strict=True))


def make(kind, scale=1.0):
    torch.manual_seed(1)
    pooling = Pooling(kind, SIZE).double()
    if pooling.query is not None:
        torch.nn.init.normal_(pooling.query, std=scale)
    return pooling


def clips(requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    shapes = [(length, SIZE) for length in LENGTHS]
    # Far below zero too: a maximum over nothing must not show.
    return [
        (torch.randn(shape, generator=generator, dtype=torch.double) - 3).requires_grad_(requires_grad)
        for shape in shapes
    ]


@pytest.mark.parametrize("kind", POOLED)
def test_values_and_gradients_are_those_by_the_book(kind):
    pooling, weights = make(kind), torch.randn(len(LENGTHS), SIZE, dtype=torch.double)
    gradients = []
    for packed in (True, False):
        parts = clips(requires_grad=True)
        if packed:
            states = pack_sequence(parts)
            pooled = pooling(states.data, states.batch_sizes.tolist())
        else:
            pooled = torch.stack([by_the_book(kind, part, pooling.query) for part in parts])
        learnt = list(pooling.parameters())
        gradients.append([pooled, *torch.autograd.grad((pooled * weights).sum(), [*parts, *learnt])])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("kind", POOLED)
def test_autocast_changes_little(kind):
    pooling, states = make(kind).float(), pack_sequence([clip.float() for clip in clips()])
    sizes = states.batch_sizes.tolist()
    with torch.autocast("cpu", torch.bfloat16):
        near = pooling(states.data, sizes)
    assert near.dtype == torch.float32
    torch.testing.assert_close(near, pooling(states.data, sizes), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("scale", [1.0, 1000.0], ids=["plain", "scores beyond what exp holds"])
@pytest.mark.parametrize("kind", POOLINGS)
def test_a_stream_is_pooled_over_its_frames_so_far(kind, scale):
    pooling, streams = make(kind, scale), torch.stack([clip[:3] for clip in clips()[:3]])
    state = pooling.state(streams)
    for number in range(1, 4):
        pooled, *carried = pooling.step(streams[:, number - 1], *state.values())
        state = dict(zip(state, carried, strict=True))
        if kind == "last":
            expected = streams[:, number - 1]
        else:
            expected = pooling(streams[:, :number].transpose(0, 1).flatten(0, 1), [3] * number)
        assert torch.isfinite(pooled).all()
        torch.testing.assert_close(pooled, expected)


def test_attention_starts_as_the_mean_and_is_the_only_one_that_learns():
    states = torch.randn(6, SIZE)
    torch.testing.assert_close(Pooling("attention", SIZE)(states, [2, 2, 2]), Pooling("mean", SIZE)(states, [2, 2, 2]))
    assert [sum(p.numel() for p in Pooling(kind, SIZE).parameters()) for kind in POOLINGS] == [0, 0, 0, SIZE]
