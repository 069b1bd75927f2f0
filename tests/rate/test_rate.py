"""The SS rate against independent transcriptions, closed forms and properties."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfsim import ss_rate
from tests import reference


def gauss(samples: int, neurons: int, *, seed: int = 0, scale: float = 1.0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(samples, neurons, generator=generator, dtype=torch.float64) * scale).to(dtype)


SHAPES = [(1, 3), (1, 12), (7, 3), (16, 5), (64, 24)]


class TestPaper:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
    def test_value_to_the_last_digits(self, shape, scale):
        x = gauss(*shape, scale=scale)
        assert ss_rate(x, scales=256).item() == pytest.approx(reference.paper_rate(x), abs=1e-13)

    @pytest.mark.parametrize("scales", [2, 3, 17])
    def test_value_with_other_numbers_of_scales(self, scales):
        x = gauss(8, 9)
        assert ss_rate(x, scales=scales).item() == pytest.approx(reference.paper_rate(x, scales), abs=1e-13)

    # The widest needs the sum in pieces, the others the series.
    @pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 3000.0])
    def test_straight_through_gradient(self, scale):
        x = gauss(12, 15, scale=scale).requires_grad_()
        ss_rate(x, scales=256, gradient="straight-through").backward()
        expected = reference.straight_through_gradient(x)
        assert (x.grad - expected).abs().max() <= 1e-9 * expected.abs().max()

    def test_value_of_the_straight_through_rate_is_the_papers(self):
        x = gauss(12, 15)
        assert ss_rate(x, gradient="straight-through").item() == pytest.approx(reference.paper_rate(x), abs=1e-13)


class TestExact:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_value(self, shape):
        x = gauss(*shape)
        assert ss_rate(x).item() == pytest.approx(reference.area_rate(x).item(), abs=1e-13)

    @pytest.mark.parametrize("ends", ["attached", "detached"])
    @pytest.mark.parametrize("shape", [(6, 3), (7, 10)])
    def test_gradient(self, ends, shape):
        x = gauss(*shape).requires_grad_()
        (got,) = torch.autograd.grad(ss_rate(x, ends=ends), x)
        (expected,) = torch.autograd.grad(reference.area_rate(x, detach_ends=ends == "detached"), x)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("count", ["surrogate", "complete-linkage"])
    @pytest.mark.parametrize("neurons", [3, 4, 30])
    def test_gradcheck(self, count, neurons):
        x = gauss(8, neurons).requires_grad_()
        assert torch.autograd.gradcheck(lambda y: ss_rate(y, count=count), x, eps=1e-7, rtol=1e-3, atol=1e-4)

    def test_sum_over_scales_converges_to_the_area(self):
        x = gauss(32, 40)
        exact = ss_rate(x).item()
        errors = [abs(ss_rate(x, scales=m).item() - exact) for m in (64, 1024, 16384)]
        assert errors[0] > 8 * errors[1] > 64 * errors[2]

    def test_gradient_of_exact_does_not_depend_on_scales(self):
        x = gauss(8, 12).requires_grad_()
        (plain,) = torch.autograd.grad(ss_rate(x), x)
        (scaled,) = torch.autograd.grad(ss_rate(x, scales=256), x)
        assert torch.equal(plain, scaled)

    def test_three_neurons_by_hand(self):
        a = 0.4  # neurons at 0, a and 1 on a line
        x = torch.tensor([[0.0, a, 1.0]], dtype=torch.float64)
        log = [math.log1p(d) for d in (a, 1 - a, 1.0)]
        u = [(value - log[0]) / (log[2] - log[0]) for value in log]
        drop = [1 - math.log(3 - 2 * math.log(1 + 2 * j / 3) / math.log(3)) / math.log(3) for j in (1, 2)]

        def side(left, right, at):
            return (right - at) * abs(right - at) - (left - at) * abs(left - at)

        expected = side(u[0], u[1], drop[0]) + side(u[1], u[2], drop[1])
        assert ss_rate(x).item() == pytest.approx(expected, abs=1e-14)


class TestCounts:
    @pytest.mark.parametrize("seed", range(3))
    def test_complete_linkage_value(self, seed):
        x = gauss(5, 14, seed=seed)
        d = reference.lengths(x).numpy()
        heights = np.array(reference.agglomerate(d))
        u = (np.log1p(heights) - np.log1p(d.min())) / (np.log1p(d.max()) - np.log1p(d.min()))
        grid = (np.arange(400_000) + 0.5) / 400_000
        curve = np.log(14 - np.searchsorted(u, grid)) / np.log(14)
        assert ss_rate(x, count="complete-linkage").item() == pytest.approx(
            2 * np.mean(np.abs(1 - grid - curve)), abs=1e-5
        )

    def test_complete_linkage_sits_on_few_pairs(self):
        x = gauss(16, 40).requires_grad_()
        (attached,) = torch.autograd.grad(ss_rate(x, count="complete-linkage"), x)
        (detached,) = torch.autograd.grad(ss_rate(x, count="complete-linkage", ends="detached"), x)
        assert attached.norm() > detached.norm() > 0

    def test_greedy_coloring_has_no_gradient(self):
        x = gauss(8, 12).requires_grad_()
        value = ss_rate(x, count="greedy-coloring")
        assert 0 < value.item() < 1
        assert not value.requires_grad

    def test_the_three_differ(self):
        x = gauss(64, 64)
        values = {
            count: ss_rate(x, count=count).item() for count in ("surrogate", "complete-linkage", "greedy-coloring")
        }
        assert len({round(v, 3) for v in values.values()}) == 3


class TestNumerics:
    @pytest.mark.parametrize("scale", [1e-8, 1e-4, 1.0, 1e4, 1e8])
    @pytest.mark.parametrize("offset", [0.0, 1000.0])
    def test_float32_against_float64_of_the_same_numbers(self, scale, offset):
        x = (gauss(64, 60) * scale + offset * scale).float()
        assert ss_rate(x).item() == pytest.approx(reference.area_rate(x).item(), abs=1e-6)
        assert ss_rate(x, scales=256).item() == pytest.approx(reference.paper_rate(x), abs=2e-6)

    @pytest.mark.parametrize("offset", [0.0, 1000.0])
    @pytest.mark.parametrize("ends", ["attached", "detached"])
    def test_float32_gradient(self, ends, offset):
        x = (gauss(64, 60) + offset).float().requires_grad_()
        (got,) = torch.autograd.grad(ss_rate(x, ends=ends), x)
        y = x.detach().double().requires_grad_()
        (expected,) = torch.autograd.grad(reference.area_rate(y, detach_ends=ends == "detached"), y)
        assert (got - expected).norm() <= 1e-5 * expected.norm()

    @pytest.mark.parametrize("magnitude", [1e30, 1e-30, 1e-40])
    def test_float32_at_the_edge_of_its_range(self, magnitude):
        x = gauss(16, 12).float() * torch.tensor(magnitude)
        value = ss_rate(x.requires_grad_())
        assert value.item() == pytest.approx(ss_rate(x.detach().double()).item(), abs=1e-4)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_summed_in_float32(self, dtype):
        x = gauss(64, 60).to(dtype).requires_grad_()
        value = ss_rate(x)
        value.backward()
        assert value.dtype == torch.float32
        assert x.grad.dtype == dtype
        assert value.item() == pytest.approx(reference.area_rate(x.detach()).item(), abs=1e-6)

    def test_under_autocast(self):
        x = gauss(64, 60).float().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = ss_rate(x)
        assert inside.item() == ss_rate(x).item()

    @pytest.mark.parametrize("options", [{}, {"scales": 64, "gradient": "straight-through"}, {"unit": "median"}])
    def test_a_gradient_under_autocast(self, options):
        x = gauss(64, 60).float()
        x[:, :30] = 1 + 1e-3 * x[:, :30]  # two tight clusters: half precision loses their differences
        x.requires_grad_()
        outside, inside = ss_rate(x, **options), ss_rate(x, **options)
        (expected,) = torch.autograd.grad(outside, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (got,) = torch.autograd.grad(inside, x)
        assert torch.equal(got, expected)

    def test_non_contiguous(self):
        x = gauss(20, 64)
        assert ss_rate(x[::2, ::3]).item() == ss_rate(x[::2, ::3].contiguous()).item()

    def test_duplicate_pair_has_finite_gradient(self):
        x = gauss(8, 10)
        x[:, 1] = x[:, 0]
        (gradient,) = torch.autograd.grad(ss_rate(x.requires_grad_()), x)
        assert torch.isfinite(gradient).all()

    def test_compiles(self):
        x = gauss(16, 12).float().requires_grad_()
        compiled = torch.compile(lambda y: 2 * ss_rate(y, check=False), backend="eager")
        value = compiled(x)
        value.backward()
        (expected,) = torch.autograd.grad(2 * ss_rate(x), x)
        torch.testing.assert_close(x.grad, expected)

    def test_leaves_random_states_alone(self):
        torch_state, numpy_state = torch.get_rng_state(), pickle.dumps(np.random.get_state())  # noqa: NPY002
        for count in ("surrogate", "complete-linkage", "greedy-coloring"):
            ss_rate(gauss(8, 9), count=count, leave_out=1)
        assert torch.equal(torch_state, torch.get_rng_state())
        assert numpy_state == pickle.dumps(np.random.get_state())  # noqa: NPY002


class TestProperties:
    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10_000), st.integers(1, 20), st.integers(3, 25), st.floats(1e-3, 1e3))
    def test_bounds_and_invariances(self, seed, samples, neurons, scale):
        x = gauss(samples, neurons, seed=seed, scale=scale)
        value = ss_rate(x).item()
        assert 0 <= value <= 1.01
        generator = torch.Generator().manual_seed(seed)
        permuted = x[torch.randperm(samples, generator=generator)][:, torch.randperm(neurons, generator=generator)]
        rotation = torch.linalg.qr(gauss(samples, samples, seed=seed + 1)).Q
        moved = rotation @ x + gauss(samples, 1, seed=seed + 2)
        assert ss_rate(permuted).item() == pytest.approx(value, abs=1e-9)
        assert ss_rate(moved).item() == pytest.approx(value, abs=1e-7)

    def test_is_not_free_of_scale(self):
        assert abs(ss_rate(gauss(64, 64)).item() - ss_rate(gauss(64, 64, scale=1e4)).item()) > 0.005

    def test_hangs_on_two_pairs(self):
        x = gauss(64, 100)
        near = x.clone()
        near[:, 1] = near[:, 0] + 1e-6
        assert ss_rate(near) > ss_rate(x) + 0.2

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("batch", [(), (2,)])
    def test_leave_out_finds_nan_in_every_neuron(self, value, batch):
        for neuron in range(10):
            x = gauss(8, 10).expand(*batch, 8, 10).clone()
            x[..., 5, neuron] = value
            with pytest.raises(ValueError, match=f"the first is {value} at sample 5, neuron {neuron}"):
                ss_rate(x, leave_out=3)
            assert ss_rate(x, leave_out=3, check=False).isnan().all()

    def test_leave_out_drops_the_most_distant(self):
        x = gauss(64, 30)
        spoiled = torch.cat([x[:, :10], 30 * gauss(64, 2, seed=1), x[:, 10:]], 1)
        assert ss_rate(spoiled, leave_out=2).item() == ss_rate(x).item()

    def test_mapping(self):
        layers = {"a": gauss(8, 9), "b": gauss(8, 12)}
        rates = ss_rate(layers, scales=256)
        assert list(rates) == ["a", "b"]
        assert rates["b"].item() == ss_rate(layers["b"], scales=256).item()


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"gradient": "exakt"}, "gradient: got 'exakt'.*did you mean 'exact'"),
            ({"ends": "free"}, "ends: got 'free', need one of 'attached', 'detached'"),
            ({"count": "linkage"}, "count: got 'linkage'.*did you mean 'complete-linkage'"),
            ({"scales": 1}, "scales: got 1"),
            ({"scales": 2.5}, "scales: got 2.5"),
            ({"leave_out": -1}, "leave_out: got -1"),
            ({"leave_out": 7}, "activations: got 9 neurons.*need at least 10"),
            ({"gradient": "straight-through", "count": "complete-linkage"}, "need count='surrogate'"),
        ],
    )
    def test_messages(self, options, message):
        with pytest.raises(ValueError, match=message):
            ss_rate(gauss(8, 9), **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_of_many_nodes_are_those_of_few(dtype):
    """Above 2,100 neurons the steps are made in parts."""
    from selfsim.rate.area import ManySteps, surrogate_steps

    kept, made = surrogate_steps(2000, np.zeros(1, dtype)), ManySteps(2000, np.zeros(1, dtype))
    assert made.ends == pytest.approx(kept.ends, abs=1e-12)
    for first, length in ((0, 1000), (1000, 50_000), (1_000_000, 900_000), (1_998_000, 998)):
        np.testing.assert_allclose(made.part(first, length).total, kept.part(first, length).total, atol=1e-12)
        np.testing.assert_allclose(made.part(first, length).rise, kept.part(first, length).rise, rtol=1e-6)


def test_value_above_2100_neurons():
    x = gauss(4, 2200)
    assert ss_rate(x.float()).item() == pytest.approx(ss_rate(x).item(), abs=1e-6)
    # The sum over m scales lies about S / m below the area.
    value = ss_rate(x).item()
    assert ss_rate(x, scales=20_001).item() == pytest.approx(value * (1 - 1 / 20_001), abs=1e-5)
