"""The targets of a constraint: set during training, by layer, loaded with a state, and moved by an epoch's means."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch

from selfsim import SelfSimilarityConstraint

# The tests look at values alone, of activations without gradient.
pytestmark = pytest.mark.filterwarnings("ignore:activations. got no gradient")


def test_a_new_target_holds_from_the_next_call_on():
    x, constraint = torch.randn(16, 8), SelfSimilarityConstraint(0.1, 2.0, ramp=None)
    constraint({"a": x})
    constraint.target = 0.3
    other = SelfSimilarityConstraint(0.3, 2.0, ramp=None)
    assert constraint({"a": x}) == other({"a": x}) and constraint.targets == {"a": 0.3}
    constraint.step(epoch=1, epochs=2)
    with pytest.raises(ValueError, match="target: got 2"):
        constraint.target = 2
    assert constraint.targets == {"a": 0.3}


def test_targets_by_layer_are_set_as_a_whole_where_they_are_checked():
    constraint = SelfSimilarityConstraint({"a": 0.1, "b": 0.2}, ramp=None)
    with pytest.raises(TypeError, match="target: got a change of one layer, need all"):
        constraint.target["a"] = 2
    with pytest.raises(TypeError, match="target: got a change of one layer, need all"):
        constraint.target.update(a=0.2)
    constraint.target = {**constraint.target, "a": 0.3}
    assert copy.deepcopy(constraint).targets == {"a": 0.3, "b": 0.2}
    assert pickle.loads(pickle.dumps(constraint.target)) == constraint.target
    x = {"a": torch.randn(16, 8), "b": torch.randn(16, 8)}
    assert constraint(x) == SelfSimilarityConstraint({"a": 0.3, "b": 0.2}, ramp=None)(x)


@pytest.mark.parametrize("target", [0.3, {"a": 0.3}])
def test_a_constant_target_is_that_of_the_constraint_not_of_the_state(target):
    x, before = torch.randn(16, 8), SelfSimilarityConstraint(0.1)
    before({"a": x})
    constraint = SelfSimilarityConstraint(target)
    constraint.load_state_dict(before.state_dict())
    assert constraint.targets == {"a": 0.3}


def test_looks_do_not_change_which_layers_the_training_draws():
    layers = {name: torch.randn(16, 8) for name in "abcd"}
    drawn = []
    for looks in (0, 2):
        constraint = SelfSimilarityConstraint(layers_per_step=1)
        drawn.append([])
        for _ in range(8):
            with torch.no_grad():
                for _ in range(looks):
                    constraint.chosen_layers(list(layers))
            drawn[-1] += constraint.chosen_layers(list(layers))
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 1


def test_an_adaptive_target_stays_when_a_look_came_before_the_first_batch():
    constraint = SelfSimilarityConstraint({"schedule": "adaptive", "goal": 0.1})
    with torch.no_grad():
        constraint({"a": torch.randn(100, 12)})
    constraint({"a": torch.randn(64, 12)})
    assert constraint.targets == {"a": 0.1}
    constraint.step(epoch=1, epochs=3, task_loss=1.0)


def test_a_constraint_is_for_one_training():
    constraint = SelfSimilarityConstraint()
    for epoch in (1, 2):
        constraint({"a": torch.randn(16, 8)})
        constraint.step(epoch=epoch, epochs=3)
    constraint({"a": torch.randn(16, 8)})
    with pytest.warns(UserWarning, match="epoch: got 1 again, and this epoch had the targets and the ramp"):
        constraint.step(epoch=1, epochs=3)
    assert len(constraint.state_dict()["rates"]["a"]) == 1  # of this training alone
    constraint.load_state_dict(SelfSimilarityConstraint().state_dict())  # a training that begins again
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        constraint.step(epoch=1, epochs=3)


def test_a_last_smaller_batch_and_looks_without_gradient_do_not_move_targets():
    whole, null = torch.randn(64, 12), {"schedule": "follow-the-null", "offset": 0.0}
    targets = []
    for before, sizes, after in ((0, (64, 64), 0), (0, (64, 3), 0), (0, (64,), 3), (2, (64,), 0)):
        constraint = SelfSimilarityConstraint(null)
        with torch.no_grad():
            for _ in range(before):
                constraint({"a": whole[:4]})
        for size in sizes:
            constraint({"a": whole[:size]})
        first = constraint.targets["a"]
        with torch.no_grad():
            for _ in range(after):
                constraint({"a": whole[:4]})
        constraint.step(epoch=1, epochs=3)
        targets += [first, constraint.targets["a"]]
    assert len(set(targets)) == 1
    rates = []
    for looks in (0, 5):
        constraint = SelfSimilarityConstraint({"schedule": "hold", "start": 0.0})
        constraint({"a": whole})
        with torch.no_grad():
            for _ in range(looks):
                constraint({"a": whole[:4]})
        constraint.step(epoch=1, epochs=2)
        rates.append(constraint.targets["a"])
    assert rates[0] == rates[1]
