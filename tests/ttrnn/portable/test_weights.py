"""ttrnn/portable/weights.py: products value by value are those of the model, in little memory."""

import numpy as np
import pytest
import torch

from tests.ttrnn.test_export_onnx import CASES, make
from ttrnn import TTShape
from ttrnn.portable.weights import ModelWeights, Product


@pytest.mark.parametrize("case", CASES)
def test_products_value_by_value_are_those_of_the_model(case):
    model = make(**CASES[case])
    weights = ModelWeights.of(model)
    assert len(weights.layers) == model.config.num_layers
    for number, layer in enumerate(weights.layers):
        ih = getattr(model.rnn, f"ih_l{number}")
        frame = torch.randint(256, (ih.in_features,)).float()
        with torch.no_grad():
            wanted = ih(frame[None])[0]
        found = layer.ih(frame.numpy().astype(np.float64)) + layer.offset
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)
        h = torch.randn(model.config.hidden_size, dtype=torch.float64)
        with torch.no_grad():
            recurrent = model.rnn.weight_hh(f"l{number}").double() @ h
        np.testing.assert_allclose(layer.hh(h.numpy()), recurrent, atol=1e-5)


def test_a_product_needs_little_memory_and_the_arithmetic_of_the_chain():
    shape = TTShape((8, 20, 20, 18), (12, 4, 4, 4), 4)
    product = Product.of(torch.randn(core) for core in shape.core_shapes)
    assert (product.in_size, product.out_size) == (57_600, 768)
    # By hand: levels 4, 3, 2 and 1 hold R N_k times N_{k+1}..N_d sums.
    assert product.num_values == 16 + 16 * 4 + 16 * 16 + 12 * 64
    assert product.macs == 57_600 * 16 + 3_200 * 16 * 4 * 4 + 160 * 16 * 4 * 16 + 8 * 12 * 4 * 64
    with pytest.raises(ValueError, match="100 values given to a product that takes 57,600"):
        product(np.zeros(100, np.float32))


def test_bidirectional_models_are_refused():
    with pytest.raises(ValueError, match="bidirectional models can't stream"):
        ModelWeights.of(make(bidirectional=True))
