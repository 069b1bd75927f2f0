"""The draw of layers and the gathering of samples: alike on all ranks, and with the gradient of one process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from selfsim import Probe, ss_rate
from selfsim.models.seeding import seeded


def network() -> nn.Sequential:
    with seeded(0):
        return nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(6, 6), nn.Tanh()))).double()


def samples() -> torch.Tensor:
    return torch.randn(24, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class TestDraw:
    def test_only_the_drawn_layers_are_hooked_and_read(self):
        model, seen = network(), set()
        probe = Probe(model, ["1", "3", "5", "7"], draw=2)
        for _ in range(20):
            with probe:
                assert sum(len(m._forward_hooks) for m in model.children()) == 2
                model(samples())
            assert tuple(probe.activations) == probe.drawn and len(probe.drawn) == 2
            seen.add(probe.drawn)
        assert len(seen) > 3 and probe.layers == ("1", "3", "5", "7")

    def test_every_layer_comes_equally_often(self):
        probe = Probe(network(), ["1", "3", "5", "7"], draw=1, seed=3)
        counts = dict.fromkeys(probe.layers, 0)
        for _ in range(400):
            with probe:
                pass
            counts[probe.drawn[0]] += 1
        assert all(60 < count < 140 for count in counts.values())  # 100 expected, five standard deviations

    def test_seeds_draw_alike_and_leave_torchs_generator_alone(self):
        probes = [Probe(network(), 4, draw=1, seed=seed) for seed in (5, 5, 6)]
        before = torch.get_rng_state()
        a, b, other = (self.drawn(probe, 12) for probe in probes)
        assert a == b != other
        assert torch.equal(torch.get_rng_state(), before)

    def test_goes_on_where_it_was_saved(self):
        probe = Probe(network(), 4, draw=1, seed=2)
        self.drawn(probe, 5)
        state = probe.state_dict()
        expected = self.drawn(probe, 9)
        again = Probe(network(), 4, draw=1, seed=99)
        again.load_state_dict(state)
        assert self.drawn(again, 9) == expected

    @staticmethod
    def drawn(probe: Probe, times: int) -> list:
        found = []
        for _ in range(times):
            with probe:
                pass
            found.append(probe.drawn)
        return found


def penalised(model: nn.Module, probe: Probe, x: torch.Tensor) -> None:
    """The gradient of a mean loss plus a penalty of all samples."""
    with probe:
        y = model(x)
    (y.square().mean() + sum(ss_rate(values) for values in probe.activations.values())).backward()


def on_a_rank(rank: int, address: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        bare = network()
        model = DistributedDataParallel(bare)
        probe = Probe(model, ["module.1", "3", "5"], draw=2, seed=4, gather=True)
        penalised(model, probe, samples()[rank * 12 : (rank + 1) * 12])
        gradients = [p.grad for p in bare.parameters()]
        torch.save((probe.drawn, {k: v.detach() for k, v in probe.activations.items()}, gradients), f"{out}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.long
@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch was built without gloo")
def test_two_ranks_have_the_gradient_of_one_process(tmp_path):
    mp.spawn(on_a_rank, (f"file://{tmp_path}/rendezvous", str(tmp_path)), nprocs=2)
    model = network()
    probe = Probe(model, ["1", "3", "5"], draw=2, seed=4)
    penalised(model, probe, samples())
    expected = [p.grad for p in model.parameters()]
    for rank in range(2):
        drawn, values, gradients = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert tuple(drawn) == probe.drawn
        for layer, value in values.items():
            torch.testing.assert_close(value, probe.activations[layer].detach(), rtol=1e-12, atol=1e-12)
        for got, want in zip(gradients, expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-8)


def test_gather_changes_nothing_without_other_ranks():
    model = network()
    values = []
    for gather in (False, True):
        with (probe := Probe(model, ["1"], gather=gather)):
            model(samples())
        values.append(probe.activations["1"])
    assert torch.equal(*values)
