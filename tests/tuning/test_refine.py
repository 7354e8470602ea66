"""Test tuning/refine.py: each proposal is one step down in ranks, until the smallest model is reached."""

import dataclasses

import pytest

import ttrnn
from pipelines.data.folds import open_folds
from pipelines.training.options import TrainOptions, flat_config
from pipelines.training.setup import model_config
from pipelines.tuning.refine import propose
from pipelines.tuning.sweep_directory import SweepDirectory
from pipelines.tuning.trial import Trial
from tests.runs import options
from tests.shards import make_shards
from ttrnn.model import VideoClassifier
from ttrnn.rounding import rounded


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return str(make_shards(tmp_path_factory.mktemp("data") / "shards"))


def trial(sweep, name, shards, model=None, state="complete", **values):
    """A finished trial with its files; its model has random weights unless one is given."""
    chosen = options(shards, "out", **({"hidden_modes": "4x4x4x2", "ranks": "6"} | values))
    config = model_config(chosen, open_folds(shards, chosen.folding))
    ttrnn.save(model or VideoClassifier(config), SweepDirectory(sweep).run(name).model)
    SweepDirectory(sweep).run(name).claim(chosen, config)
    return Trial(
        trial=name, state=state, num_params=config.num_params, val_metric=0.5, config=flat_config(chosen, config)
    )


def ended(sweep, name, shards, proposal):
    """The trial of a proposal, without training it."""
    values = dict(proposal.values)
    path = str(SweepDirectory(sweep).run(values["init"]).model)
    chosen = TrainOptions(shards=shards, out="out", **values | {"init": path})
    model, _ = rounded(ttrnn.load(path), model_config(chosen, open_folds(shards, chosen.folding)))
    assert model.num_params == proposal.num_params
    return trial(sweep, name, shards, model, **values)


@pytest.mark.parametrize("stem", [{}, {"stem": "conv", "stem_strides": "1"}], ids=["no stem", "stem"])
@pytest.mark.parametrize("recurrent_ranks", ["none", "6"])
def test_rounds_propose_smaller_and_smaller_models_and_end(shards, tmp_path, recurrent_ranks, stem):
    trials = [trial(tmp_path, "0000", shards, recurrent_ranks=recurrent_ranks, **stem)]
    smallest = trial(tmp_path, "smallest", shards, ranks="1", recurrent_ranks="1", **stem).num_params
    while proposals := propose(SweepDirectory(tmp_path), trials[-1:], trials, epochs=8):
        (proposal,) = proposals
        assert (proposal.parent, proposal.values["init"]) == (trials[-1].trial, trials[-1].trial)
        assert proposal.num_params <= (trials[-1].num_params + smallest) / 2
        trials.append(ended(tmp_path, f"{len(trials):04d}", shards, proposal))
    assert len(trials) > 3
    assert smallest <= trials[-1].num_params < 1.3 * smallest
    assert "none" not in {trial.config["recurrent_ranks"] for trial in trials[1:]}
    assert propose(SweepDirectory(tmp_path), trials, trials, epochs=8) == []


def test_a_proposal_has_the_options_of_its_parent_and_a_quarter_of_the_epochs(shards, tmp_path):
    parent = trial(tmp_path, "0000", shards, cell="lstm", lr=0.004, weight_averaging=0.9)
    for epochs, fewer in ((1, 1), (16, 4), (30, 8)):
        (proposal,) = propose(SweepDirectory(tmp_path), [parent], [parent], epochs=epochs)
        assert proposal.values["epochs"] == fewer
    assert proposal.values["lr"] == pytest.approx(1.2 * 0.004)
    same = proposal.values.keys() - {"ranks", "recurrent_ranks", "init", "epochs", "lr"}
    options_of_parent = SweepDirectory(tmp_path).run("0000").options()
    assert {name: proposal.values[name] for name in same} == {name: options_of_parent[name] for name in same}
    assert {"cell", "weight_averaging", "in_modes"} <= same


def test_ranks_of_bonds_without_information_are_reduced_first(shards, tmp_path):
    chosen = options(shards, "out", hidden_modes="4x4x4x2", ranks="1x4x2", recurrent_ranks="3")
    small = VideoClassifier(model_config(chosen, open_folds(shards, chosen.folding)))
    large, _ = rounded(small, dataclasses.replace(small.config, ranks="6", recurrent_ranks="6"))
    parent = trial(tmp_path, "0000", shards, large, recurrent_ranks="6")
    (proposal,) = propose(SweepDirectory(tmp_path), [parent], [parent], epochs=8, max_params=small.num_params)
    assert (proposal.values["ranks"], proposal.values["recurrent_ranks"]) == ("1x4x2", "3x3x3")


def test_an_existing_shape_is_not_proposed_again_unless_it_failed(shards, tmp_path):
    parent = trial(tmp_path, "0000", shards)
    (proposal,) = propose(SweepDirectory(tmp_path), [parent], [parent], epochs=8)
    for state, expected in (("complete", []), ("stopped", []), ("failed", [proposal])):
        ranks = {name: proposal.values[name] for name in ("ranks", "recurrent_ranks")}
        other = trial(tmp_path, "0001", shards, state=state, lr=0.5, **ranks)
        assert propose(SweepDirectory(tmp_path), [parent], [parent, other], epochs=8) == expected
    duplicate = dataclasses.replace(parent, trial="0000")
    assert propose(SweepDirectory(tmp_path), [parent, duplicate], [parent], epochs=8) == [proposal]


def test_no_proposal_exceeds_the_limit_or_is_nearly_as_large_as_its_parent(shards, tmp_path):
    parent = trial(tmp_path, "0000", shards, recurrent_ranks="6")
    (proposal,) = propose(SweepDirectory(tmp_path), [parent], [parent], epochs=8)
    (smaller,) = propose(SweepDirectory(tmp_path), [parent], [parent], epochs=8, max_params=proposal.num_params - 1)
    assert smaller.num_params < proposal.num_params
    assert propose(SweepDirectory(tmp_path), [parent], [parent], epochs=8, max_params=10) == []
    nothing = [trial(tmp_path, "0001", shards, ranks="1", recurrent_ranks="1x1x2")]
    nothing.append(trial(tmp_path, "0002", shards, input="dense"))
    assert propose(SweepDirectory(tmp_path), nothing, nothing, epochs=8) == []
