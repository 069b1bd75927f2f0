"""The cap: what reaches a layer is the task's gradient and at most so much of the penalty's, however training runs."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from selfsim import Probe, SelfSimilarityConstraint, ss_rate
from selfsim.training.penalty import capped_sum

from .capped import CAP, Network, batch, constraint, loss_and_probe, network

ROOT = Path(__file__).parents[2]


def apart(model: Network, x, y, weight: float = 1e4) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the task and of the penalty at the layer's output, each from a graph of its own."""
    gradients = []
    for part in range(2):
        kept = []
        handle = model.read.register_forward_hook(lambda module, args, output, kept=kept: kept.append(output))
        loss, probe = loss_and_probe(model, x, y)
        handle.remove()
        value = loss if part == 0 else constraint(weight, None)(probe)
        gradients += torch.autograd.grad(value, kept[:1])
    return gradients[0], gradients[1]


def weight_gradients(model: Network, x, y, at_layer: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of the weights up to the read layer, if this is the gradient at its output."""
    hidden = model.maps(x)
    return list(torch.autograd.grad(hidden, [*model.first.parameters(), *model.read.parameters()], at_layer))


def got(model: Network) -> list[torch.Tensor]:
    return [p.grad for p in (*model.first.parameters(), *model.read.parameters())]


def expected(model: Network, x, y, weight: float = 1e4) -> list[torch.Tensor]:
    task, penalty = apart(model, x, y, weight)
    share = min(1.0, CAP * float(task.norm() / penalty.norm()))
    return weight_gradients(model, x, y, task + share * penalty)


def close(a, b, rtol=1e-5):
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol * float(other.abs().max()))


@pytest.mark.parametrize("how", ["plain", "in place", "checkpointed"])
@pytest.mark.parametrize("weight", [1e4, 1e-4])
def test_the_layers_below_get_the_task_and_so_much_of_the_penalty(how, weight):
    model, (x, y) = network(how), batch()
    task, penalty = apart(network(), x, y, weight)
    assert (penalty.norm() > CAP * task.norm()) == (weight == 1e4)  # one of the two is shortened
    loss, probe = loss_and_probe(model, x, y)
    (loss + constraint(weight)(probe)).backward()
    close(got(model), expected(network(), x, y, weight))


def test_the_cap_holds_to_a_millionth_and_leaves_direction_and_value():
    model, (x, y) = network(), batch()
    own = constraint()
    seen = {}
    meeting = own._meeting

    def watched(layer, pull, task, penalty):
        seen["task"], seen["penalty"], seen["sum"] = task, penalty, meeting(layer, pull, task, penalty)
        return seen["sum"]

    own._meeting = watched
    loss, probe = loss_and_probe(model, x, y)
    value = own(probe)
    with torch.no_grad():
        assert value.ndim == 0 and value.item() == pytest.approx(constraint(cap=None)(probe).item(), rel=1e-6)
    (loss + value).backward()
    added = seen["sum"].double() - seen["task"].double()
    assert float(added.norm() / seen["task"].double().norm()) == pytest.approx(CAP, rel=1e-6)
    cosine = (added * seen["penalty"].double()).sum() / (added.norm() * seen["penalty"].double().norm())
    assert float(cosine) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("share", [CAP, 1e3])
def test_many_numbers_of_any_size_meet_to_a_millionth(size, share):
    """Five million positive numbers, whose squares torch's own norm in float32 adds with an error of 1e-4."""
    generator = torch.Generator().manual_seed(0)
    task, penalty = torch.rand(2, 4_800_000, generator=generator)
    penalty = size * penalty
    at_most, largest = capped_sum(task, penalty, share, True)
    assert largest == task.max()
    wanted = min(share, float(penalty.double().norm() / task.double().norm()))
    for both, length in ((at_most, wanted), (capped_sum(task, penalty, share, False)[0], share)):
        added = both.double() - task.double()
        # What is far shorter than the task is lost in the task's own rounding.
        assert float(added.norm() / task.double().norm()) == pytest.approx(length, rel=1e-6, abs=1e-8)


def test_nothing_meets_something():
    zero, some = torch.zeros(5), torch.arange(5.0)
    for task, penalty in ((zero, some), (some, zero), (zero, zero)):
        torch.testing.assert_close(capped_sum(task, penalty, CAP, True)[0], task)
    torch.testing.assert_close(capped_sum(zero, some, math.inf, True)[0], some)  # no cap


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**16])
def test_a_loss_scale_changes_nothing(scale):
    model, (x, y) = network(), batch()
    loss, probe = loss_and_probe(model, x, y)
    (scale * (loss + constraint()(probe))).backward()
    close([gradient / scale for gradient in got(model)], expected(network(), x, y))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_autocast_with_a_scaler(half):
    """In half precision the gradients themselves are rounded; the cap holds to their precision."""
    model, (x, y) = network(), batch()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=half == torch.float16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with torch.autocast("cpu", dtype=half):
        loss, probe = loss_and_probe(model, x, y)
    assert probe.activations["read"].dtype == half
    scaler.scale(loss + constraint()(probe)).backward()
    scaler.unscale_(optimizer)
    close(got(model), expected(network(), x, y), rtol=0.05)


def test_accumulated_gradients_are_sums():
    model, parts = network(), [batch(0), batch(1)]
    for x, y in parts:
        loss, probe = loss_and_probe(model, x, y)
        (loss + constraint()(probe)).backward()
    one, other = (expected(network(), x, y) for x, y in parts)
    close(got(model), [a + b for a, b in zip(one, other, strict=True)])


def test_two_losses_of_one_graph_and_a_graph_passed_twice():
    model, (x, y) = network(), batch()
    loss, probe = loss_and_probe(model, x, y)
    total = loss + constraint()(probe)
    total.backward(retain_graph=True)
    first = [gradient.clone() for gradient in got(model)]
    model.zero_grad()
    total.backward(retain_graph=True)
    close(got(model), first)
    model.zero_grad()
    loss.backward()  # the task alone, after the penalty was there: nothing of it is left over
    close(got(model), weight_gradients(network(), x, y, apart(network(), x, y)[0]))


def test_a_probe_without_a_cap_leaves_gradients_as_they_are():
    model, (x, y) = network(), batch()
    loss, probe = loss_and_probe(model, x, y)
    (loss + constraint(cap=None)(probe)).backward()
    task, penalty = apart(network(), x, y)
    close(got(model), weight_gradients(network(), x, y, task + penalty))


@pytest.mark.parametrize("pooling", ["mean", "max", "flatten", lambda maps: maps.amax((2, 3))])
def test_all_poolings_meet_at_the_layers_output(pooling):
    model, (x, y) = network(), batch()
    with (probe := Probe(model, ["read"], pooling=pooling)):
        loss = nn.functional.cross_entropy(model(x), y)
    own, lengths = constraint(), []
    meeting = own._meeting

    def watched(layer, pull, task, penalty):
        lengths.append((task.shape, float((meeting(layer, pull, task, penalty) - task).norm() / task.norm())))
        return meeting(layer, pull, task, penalty)

    own._meeting = watched
    (loss + own(dict(probe.activations))).backward()  # in another mapping, they are the probe's all the same
    assert lengths == [((16, 12, 4, 4), pytest.approx(CAP, rel=1e-5))]


def test_activations_of_ones_own_meet_where_they_are():
    x, y = torch.randn(20, 5), torch.randint(3, (20,))
    first, last = nn.Linear(5, 16), nn.Linear(16, 3)
    gradients = []
    for weight in (1e6, 0.0):
        hidden = first(x).tanh()
        hidden.retain_grad()
        loss = nn.functional.cross_entropy(last(hidden), y)
        (loss + constraint(weight)({"hidden": hidden})).backward()
        gradients.append(hidden.grad)
    capped, task = gradients
    assert float((capped - task).norm() / task.norm()) == pytest.approx(CAP, rel=1e-4)


def test_leaves_keep_no_hooks():
    leaf = torch.randn(20, 16, requires_grad=True)
    for _ in range(3):
        (leaf.square().sum() + constraint()({"leaf": leaf})).backward()
    assert not leaf._backward_hooks


def test_a_penalty_apart_from_the_loss_is_a_warning():
    """No gradient of the task is there to compare with, so that the penalty is 0."""
    model, (x, y) = network(), batch()
    own = constraint()
    _, probe = loss_and_probe(model, x, y)
    own(probe).backward()
    assert all(not gradient.any() for gradient in got(model))
    with pytest.warns(UserWarning, match="cap: no gradient of the task reached 'read', so the capped penalty was 0"):
        own.step(epoch=1, epochs=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, probe = loss_and_probe(model, x, y)
        (loss + own(probe)).backward()
        own.step(epoch=2, epochs=3)


def test_an_output_that_is_no_tensor_is_an_error():
    class Holder(nn.Module):
        def forward(self, x):
            return type("Output", (), {"value": x})()

    model = nn.Sequential(nn.Linear(4, 8), Holder())
    with (probe := Probe(model, ["1"], pooling=lambda output: output.value)):
        model(torch.rand(9, 4))
    with pytest.raises(ValueError, match="layer '1': cap: the probe's pooling reads an output that is no tensor"):
        constraint()(probe)
    with (probe := Probe(model, ["1"], part="value")):
        model(torch.rand(9, 4))
    assert constraint()(probe).requires_grad


def test_a_compiled_model():
    model, (x, y) = network(), batch()
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    probe, own = Probe(model, ["read"]), constraint()
    with probe:
        loss = nn.functional.cross_entropy(compiled(x), y)
    (loss + own(probe)).backward()
    close(got(model), expected(network(), x, y))


@pytest.mark.long
def test_a_compiled_step():
    torch.compiler.reset()  # code of the test above has no hooks
    model, (x, y) = network(), batch()
    probe, own = Probe(model, ["read"]), constraint()

    @torch.compile(backend="eager")
    def step(x, y):
        with probe:
            loss = nn.functional.cross_entropy(model(x), y)
        return loss + own(probe)

    for _ in range(2):
        model.zero_grad()
        step(x, y).backward()
        close(got(model), expected(network(), x, y))


def test_a_copy_of_a_module_that_holds_probe_and_constraint_is_capped_too():
    holder = nn.Module()
    holder.model, (x, y) = network(), batch()
    holder.probe, holder.constraint = Probe(holder.model, ["read"]), constraint()
    with holder.probe:
        holder.model(x)
    twin = copy.deepcopy(holder)
    with twin.probe:
        loss = nn.functional.cross_entropy(twin.model(x), y)
    (loss + twin.constraint(twin.probe)).backward()
    close(got(twin.model), expected(network(), x, y))
    assert got(holder.model) == [None] * 4


RANKS = """
import sys, torch
from torch import nn
from tests.training import test_cap as here
from selfsim import Probe
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
model, (x, y) = here.network(), here.batch()
wrapped = nn.parallel.DistributedDataParallel(model)
probe, own = Probe(wrapped, ["read"], gather=True), here.constraint()
meeting, shares = own._meeting, []
def watched(layer, pull, task, penalty):
    both = meeting(layer, pull, task, penalty)
    shares.append(float((both.double() - task).norm() / task.double().norm()))
    return both
own._meeting = watched
with probe:
    loss = nn.functional.cross_entropy(wrapped(x[rank::2]), y[rank::2])
(loss + own(probe)).backward()
torch.save((shares, here.got(model)), f"{sys.argv[1]}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.long
def test_on_two_ranks_the_cap_holds_on_each(tmp_path):
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this build of torch has no gloo")
    (tmp_path / "ranks.py").write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [*command, str(tmp_path / "ranks.py"), str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for shares, _ in ranks:
        assert shares == [pytest.approx(CAP, rel=1e-6)]
    close(ranks[0][1], ranks[1][1])
    assert all(math.isfinite(float(gradient.sum())) for gradient in ranks[0][1])


def test_without_a_weight_the_pull_goes_by_the_distance_from_the_target():
    """Its length is cap * |S - target| / target times the task's gradient, and at most cap times."""
    model, (x, y) = network(), batch()
    rates = []
    for target in (0.01, None):
        loss, probe = loss_and_probe(model, x, y)
        rate = float(ss_rate(probe.activations["read"].detach(), unit="median"))
        target = target or rate / 1.2  # a fifth of it too high
        own, shares = SelfSimilarityConstraint(target, cap=CAP, ramp=None), []
        meeting = own._meeting

        def watched(layer, pull, task, penalty, meeting=meeting, shares=shares):
            both = meeting(layer, pull, task, penalty)
            shares.append(float((both.double() - task).norm() / task.double().norm()))
            return both

        own._meeting = watched
        value = own(probe)
        assert value.item() == pytest.approx((rate - target) ** 2 / 2, rel=1e-4)
        (loss + value).backward()
        rates += shares
    assert rates == [pytest.approx(CAP, rel=1e-6), pytest.approx(CAP * 0.2, rel=1e-4)]


def test_without_a_weight_the_gradient_leaves_the_scale_alone():
    x = torch.randn(32, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for unit, ends, along in (
        ("median", "attached", False),
        ("median", "detached", False),
        ("absolute", "detached", True),
    ):
        own = SelfSimilarityConstraint(0.1, cap=1.0, ramp=None, unit=unit, ends=ends)
        y = 1 * x
        y.retain_grad()
        (y.sum(0)[0] + own({"a": y})).backward()
        pull = y.grad - torch.autograd.grad((1 * x).sum(0)[0], x)[0]
        centred = (x - x.mean(1, keepdim=True)).detach()
        cosine = float((pull * centred).sum() / (pull.norm() * centred.norm()))
        assert pull.norm() > 0.1
        assert (abs(cosine) > 0.05) == along


def test_the_ramp_goes_by_steps_or_by_epochs():
    x = torch.randn(20, 12, requires_grad=True)
    own = SelfSimilarityConstraint(0.1, 2.0, cap=None, ramp=(0.2, 0.6))
    whole = SelfSimilarityConstraint(0.1, 2.0, cap=None, ramp=None)(x).item()
    shares = {0: 0, 20: 0, 30: 0.25, 40: 0.5, 60: 1, 100: 1}
    for step, share in shares.items():
        own.advance(step=step, steps=100)
        assert own(x).item() == pytest.approx(share * whole)
    for epoch, share in {1: 0, 2: 0.5, 3: 1}.items():
        own.step(epoch=epoch, epochs=5)
        assert own(x).item() == pytest.approx(share * whole)
    other = SelfSimilarityConstraint(0.1, 2.0, cap=None, ramp=(0.2, 0.6))
    other.load_state_dict(own.state_dict())
    assert other(x).item() == pytest.approx(whole)
    with pytest.raises(ValueError, match="step: got 101, need 0 to steps=100"):
        own.advance(step=101, steps=100)


def test_a_ramp_that_nothing_drives_is_a_warning(monkeypatch):
    monkeypatch.setattr("selfsim.training.penalty._CALLS_WITHOUT_STEP", 3)
    own, x = SelfSimilarityConstraint(), torch.randn(8, 6, requires_grad=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            assert not own(x).requires_grad  # before the ramp
    assert ["the penalty was 0 in 3 calls" in str(warning.message) for warning in caught] == [True]


@pytest.mark.parametrize("bad", [0.0, -1, math.nan, "1", True])
def test_messages_of_the_cap(bad):
    with pytest.raises(ValueError, match="cap: got"):
        SelfSimilarityConstraint(cap=bad)
