import pytest
import torch

from ttrnn.contract import dense_weight
from ttrnn.init import orthogonal_cores_
from ttrnn.shapes import TTShape

SHAPES = {
    "paper-like": ((8, 10, 10, 6), (12, 4, 4, 4), 4),
    "rank 1": ((8, 10, 6), (3, 4, 4), 1),
    "dense": ((96,), (24,), ()),
    "recurrent": ((4, 4, 4), (12, 4, 4), 4),
}


def filled(shape, gain=1.0, seed=0):
    torch.manual_seed(seed)
    cores = [torch.empty(s) for s in shape.core_shapes]
    orthogonal_cores_(cores, gain)
    return cores


@pytest.mark.parametrize("gain", [1.0, 0.1])
@pytest.mark.parametrize("name", SHAPES)
def test_every_row_of_the_matrix_has_the_norm_that_is_wanted(name, gain):
    norms = dense_weight(filled(TTShape(*SHAPES[name]), gain)).norm(dim=1)
    torch.testing.assert_close(norms, torch.full_like(norms, gain))


def test_rows_keep_their_mean_square_norm_where_ranks_exceed_the_last_mode():
    shape = TTShape((8, 8, 2), (4, 4, 4), 6)
    squares = torch.cat([dense_weight(filled(shape, seed=seed)).square().sum(dim=1) for seed in range(40)])
    assert abs(squares.mean() - 1) < 0.1


@pytest.mark.parametrize("correlation", [0.0, 0.9, 0.999], ids="correlation {}".format)
def test_preactivations_start_with_unit_variance_for_correlated_pixels_too(correlation):
    shape = TTShape((8, 10, 10, 6), (4, 4, 4, 4), 4)
    torch.manual_seed(1)
    common, own = torch.randn(400, 1), torch.randn(400, shape.in_features)
    x = correlation**0.5 * common + (1 - correlation) ** 0.5 * own
    variances = [(x @ dense_weight(filled(shape, seed=seed)).t()).var().item() for seed in range(30)]
    assert 0.7 < sum(variances) / len(variances) < 1.4


def test_same_seed_same_cores_in_every_dtype():
    shape = TTShape(*SHAPES["recurrent"])
    torch.manual_seed(3)
    single = [torch.empty(s) for s in shape.core_shapes]
    orthogonal_cores_(single)
    torch.manual_seed(3)
    double = [torch.empty(s, dtype=torch.float64) for s in shape.core_shapes]
    orthogonal_cores_(double)
    for one, other in zip(single, double, strict=True):
        torch.testing.assert_close(one, other.float())
