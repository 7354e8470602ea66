import itertools

import pytest
import torch

from ttrnn import reference
from ttrnn.fused import fused_scan
from ttrnn.scan import NUM_GATES, scan

H = 3
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
# clips still running at each time
BATCHES = {
    "equal lengths": [4, 4, 4, 4, 4],
    "ragged": [4, 4, 3, 1, 1],
    "one frame": [3],
    "one clip": [1, 1, 1, 1],
    "one clip of one frame": [1],
    "all but one end at once": [5, 1, 1],
}
CELLS = {"rnn": ("rnn", "tanh"), "rnn with relu": ("rnn", "relu"), "gru": ("gru", "tanh"), "lstm": ("lstm", "tanh")}


def make(cell, sizes, dtype, masked=False):
    """All inputs by name, each with a gradient, and the mask."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()

    gates = NUM_GATES[cell]
    inputs = {"gates": draw(sum(sizes), gates * H), "weight_hh": draw(gates * H, H), "h": draw(sizes[0], H)}
    if cell == "lstm":
        inputs["c"] = draw(sizes[0], H)
    if cell == "gru":
        inputs["bias_hn"] = draw(H)
    return inputs, (draw(sizes[0], H) > 0).to(dtype) * 1.5 if masked else None


def run(cell, nonlinearity, inputs, sizes, mask, reverse):
    """By scan: every result by name."""
    state = tuple(inputs[part] for part in ("h", "c") if part in inputs)
    states, final = scan(
        cell,
        inputs["gates"],
        inputs["weight_hh"],
        state,
        sizes,
        bias_hn=inputs.get("bias_hn"),
        mask_BH=mask,
        nonlinearity=nonlinearity,
        reverse=reverse,
    )
    return {"states": states, **{f"final {name}": part for name, part in zip("hc", final, strict=False)}}


def run_reference(cell, nonlinearity, inputs, sizes, mask, reverse):
    """Clip by clip, by the book; a mask of h is one of the columns of U."""
    starts = list(itertools.accumulate([0, *sizes]))
    states, finals = {}, []
    identity = torch.eye(NUM_GATES[cell] * H, dtype=inputs["gates"].dtype)
    for clip in range(sizes[0]):
        rows = [starts[t] + clip for t, size in enumerate(sizes) if clip < size]
        rows = rows[::-1] if reverse else rows
        weight = inputs["weight_hh"] if mask is None else inputs["weight_hh"] * mask[clip]
        bias = torch.zeros(len(identity), dtype=identity.dtype)
        more = {"rnn": [], "gru": [inputs.get("bias_hn")], "lstm": []}[cell]
        state = [inputs[part][clip] for part in ("h", "c") if part in inputs]
        if nonlinearity == "relu":
            outputs, h = [], state[0]
            for row in rows:
                h = torch.relu(inputs["gates"][row] + weight @ h)
                outputs.append(h)
            final = [h]
        else:
            outputs, *final = getattr(reference, cell)(inputs["gates"][rows], identity, weight, bias, *more, *state)
        states |= dict(zip(rows, outputs, strict=True))
        finals.append(final)
    results = {"states": torch.stack([states[row] for row in range(sum(sizes))])}
    return results | {
        f"final {name}": torch.stack(parts) for name, parts in zip("hc", zip(*finals, strict=True), strict=False)
    }


def assert_close(actual, expected, dtype, what):
    error = (actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    assert error < TOLERANCE[dtype], f"{what}: relative error {error:.3g}"


# Each pair of values of two of these occurs.
@pytest.mark.parametrize(
    ("reverse", "masked", "dtype"),
    [
        (False, False, torch.float64),
        (False, True, torch.float32),
        (True, False, torch.float32),
        (True, True, torch.float64),
    ],
    ids=["float64", "masked, float32", "reverse, float32", "reverse, masked, float64"],
)
@pytest.mark.parametrize("sizes", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize(("cell", "nonlinearity"), CELLS.values(), ids=CELLS)
def test_states_and_every_gradient_equal_the_cells_by_the_book(cell, nonlinearity, sizes, reverse, masked, dtype):
    inputs, mask = make(cell, sizes, dtype, masked)
    compare(run(cell, nonlinearity, inputs, sizes, mask, reverse), cell, nonlinearity, inputs, sizes, mask, reverse)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("sizes", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize(("cell", "nonlinearity"), CELLS.values(), ids=CELLS)
def test_fused_kernels_equal_the_cells_by_the_book(cell, nonlinearity, sizes, dtype):
    inputs, _ = make(cell, sizes, dtype)
    state = [inputs[part] for part in ("h", "c") if part in inputs]
    given = inputs["gates"], inputs["weight_hh"], state, sizes, inputs.get("bias_hn"), None, nonlinearity
    states, *final = fused_scan(cell, *given)
    results = {"states": states, **{f"final {name}": part for name, part in zip("hc", final, strict=False)}}
    compare(results, cell, nonlinearity, inputs, sizes, None, False)


def test_fused_kernels_take_gradients_twice_and_for_the_weights_alone():
    inputs, _ = make("gru", [3, 2], torch.float64)
    weight, fixed = inputs["weight_hh"], {name: value.detach() for name, value in inputs.items()}
    states, _ = fused_scan("gru", fixed["gates"], weight, [fixed["h"]], [3, 2], fixed["bias_hn"], None, "tanh")
    gradients = [torch.autograd.grad(states.sum(), weight, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*gradients)
    with torch.no_grad():
        assert torch.equal(
            fused_scan("gru", fixed["gates"], weight, [fixed["h"]], [3, 2], fixed["bias_hn"], None, "tanh")[0], states
        )


def compare(results, cell, nonlinearity, inputs, sizes, mask, reverse):
    """Values and every gradient, of a random sum of all results."""
    dtype = inputs["gates"].dtype
    expected = run_reference(cell, nonlinearity, inputs, sizes, mask, reverse)
    assert results.keys() == expected.keys()
    generator = torch.Generator().manual_seed(1)
    total = expected_total = torch.zeros((), dtype=dtype)
    for name in results:
        assert_close(results[name], expected[name], dtype, name)
        weights = torch.randn(results[name].shape, dtype=dtype, generator=generator)
        total = total + (results[name] * weights).sum()
        expected_total = expected_total + (expected[name] * weights).sum()
    gradients = torch.autograd.grad(total, inputs.values())
    for name, gradient, twin in zip(
        inputs, gradients, torch.autograd.grad(expected_total, inputs.values()), strict=True
    ):
        assert_close(gradient, twin, dtype, f"gradient of {name}")


@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize("cell", NUM_GATES)
def test_gradcheck(cell, reverse):
    sizes = [3, 2, 2, 1]
    inputs, mask = make(cell, sizes, torch.float64, masked=True)

    def results(*values):
        return tuple(run(cell, "tanh", dict(zip(inputs, values, strict=True)), sizes, mask, reverse).values())

    assert torch.autograd.gradcheck(results, tuple(inputs.values()))


@pytest.mark.parametrize("cell", NUM_GATES)
def test_a_gru_without_bias_and_parts_without_gradient_are_fine(cell):
    sizes = [3, 3, 2]
    inputs, _ = make(cell, sizes, torch.float64)
    with_zero = dict(inputs)
    if cell == "gru":
        with_zero["bias_hn"] = torch.zeros(H, dtype=torch.float64)
        inputs.pop("bias_hn")
    inputs = {name: value if name == "weight_hh" else value.detach() for name, value in inputs.items()}
    results = [run(cell, "tanh", chosen, sizes, None, False)["states"] for chosen in (inputs, with_zero)]
    torch.testing.assert_close(*results, rtol=0, atol=1e-14)
    gradients = [torch.autograd.grad(states.sum(), inputs["weight_hh"])[0] for states in results]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", NUM_GATES)
def test_a_second_backward_through_the_same_graph_gives_the_same(cell):
    inputs, _ = make(cell, [3, 2], torch.float64)
    total = run(cell, "tanh", inputs, [3, 2], None, False)["states"].square().sum()
    first = torch.autograd.grad(total, inputs.values(), retain_graph=True)
    second = torch.autograd.grad(total, inputs.values())
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("cell", NUM_GATES)
def test_double_backward_is_refused(cell):
    inputs, _ = make(cell, [2, 2], torch.float64)
    total = run(cell, "tanh", inputs, [2, 2], None, False)["states"].square().sum()
    (gradient,) = torch.autograd.grad(total, inputs["gates"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("cell", NUM_GATES)
def test_under_autocast_states_are_summed_in_full_precision(cell):
    inputs, _ = make(cell, [3, 2], torch.float32)
    expected = run(cell, "tanh", inputs, [3, 2], None, False)["states"]
    expected_gradient = torch.autograd.grad(expected.sum(), inputs["weight_hh"])[0]
    with torch.autocast("cpu", torch.bfloat16):
        states = run(cell, "tanh", inputs, [3, 2], None, False)["states"]
        gradient = torch.autograd.grad(states.sum(), inputs["weight_hh"])[0]
    assert torch.equal(states, expected)
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("cell", NUM_GATES)
def test_states_and_gradients_on_cuda_equal_those_of_the_cpu(cell):
    sizes = [4, 3, 3, 1]
    inputs, mask = make(cell, sizes, torch.float64, masked=True)
    there = {name: value.detach().cuda().requires_grad_() for name, value in inputs.items()}
    expected = run(cell, "tanh", inputs, sizes, mask, True)
    results = run(cell, "tanh", there, sizes, mask.cuda(), True)
    for name in expected:
        assert_close(results[name].cpu(), expected[name], torch.float64, name)
    gradients = torch.autograd.grad(results["states"].square().sum(), there.values())
    twins = torch.autograd.grad(expected["states"].square().sum(), inputs.values())
    for name, gradient, twin in zip(inputs, gradients, twins, strict=True):
        assert_close(gradient.cpu(), twin, torch.float64, f"gradient of {name}")


@pytest.mark.parametrize("cell", NUM_GATES)
def test_a_state_in_half_precision_is_taken_under_autocast(cell):
    inputs, _ = make(cell, [3, 2], torch.float32)
    halves = {name: value.bfloat16() if name in ("h", "c") else value for name, value in inputs.items()}
    with torch.autocast("cpu", torch.bfloat16):
        states = run(cell, "tanh", halves, [3, 2], None, False)["states"]
    expected = run(cell, "tanh", {name: value.float() for name, value in halves.items()}, [3, 2], None, False)["states"]
    assert torch.equal(states, expected)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_states_own_their_memory_and_may_be_changed_in_place(cell):
    inputs, _ = make(cell, [3, 2], torch.float32)
    states = run(cell, "tanh", inputs, [3, 2], None, False)["states"]
    assert states.untyped_storage().nbytes() == states.nbytes
    with torch.no_grad():
        states.mul_(2)
