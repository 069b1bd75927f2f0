"""The compiled loops against numpy and scipy, and the rate with them against the rate without and the references."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from selfsim import ss_rate
from selfsim.rate import area, distances, loops, paper
from selfsim.rate.area import axis_of
from selfsim.rate.options import RateOptions
from selfsim.statistics.synthetic import known_activations
from tests import reference

RNG = np.random.default_rng(0)


def gauss(samples: int, neurons: int) -> torch.Tensor:
    return torch.randn(samples, neurons, generator=torch.Generator().manual_seed(samples), dtype=torch.float64)


@pytest.fixture
def no_loops(monkeypatch):
    """As where numba is not installed."""
    for module in (area, distances, loops, paper):
        monkeypatch.setattr(module, "compiled_loops_pay", lambda pairs: False)


def gradients_of(x: torch.Tensor, **options) -> tuple[float, torch.Tensor]:
    x = x.detach().clone().requires_grad_()
    value = ss_rate(x, **options)
    value.backward()
    return value.item(), x.grad


class TestLoops:
    # More neurons than a tile holds; samples and rows that no unrolled loop divides.
    @pytest.mark.parametrize(("samples", "n"), [(1, 70), (7, 71), (8, 1090)])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
    def test_distances(self, samples, n, dtype, tolerance):
        x = RNG.normal(size=(samples, n)).astype(dtype) + dtype(1000)
        expected = pdist(x.T.astype(np.float64))
        got = np.empty(len(expected), dtype)
        loops.distances_of_rows(x, 0, n, got)
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
        first, stop = n // 3, n // 3 + 6
        before = [n * i - i * (i + 1) // 2 for i in (first, stop)]
        part = np.empty(before[1] - before[0], dtype)
        loops.distances_of_rows(x, first, stop, part)
        np.testing.assert_array_equal(part, got[before[0] : before[1]])

    @pytest.mark.parametrize(
        "values",
        [
            RNG.random(5000),
            RNG.random(70_000) * 1e-6 + 1,  # few bits, many ties
            np.concatenate([RNG.random(5000) * 1e-30, [0.0, 3e38]]),
            np.full(3000, 2.0),
        ],
    )
    def test_sort_is_a_stable_argsort(self, values):
        values = values.astype(np.float32)
        ascending, order = loops.sorted_with_order(values)
        np.testing.assert_array_equal(order, np.argsort(values, kind="stable"))
        np.testing.assert_array_equal(ascending, np.sort(values))
        np.testing.assert_array_equal(loops.unsorted(ascending, order), values)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("spread", [1e-6, 1.0, 1e6])
    def test_counts_below_are_strict(self, dtype, spread):
        lengths = np.sort(1 + spread * RNG.random(4000)).astype(dtype)
        at = np.concatenate([[lengths[0], lengths[7], lengths[7]], np.linspace(lengths[9], lengths[-1], 200)])
        got = paper.counts_below(torch.from_numpy(RNG.permutation(lengths)), at)
        np.testing.assert_array_equal(got, [(lengths.astype(np.float64) < limit).sum() for limit in at])

    def test_series(self):
        coefficients, values = RNG.normal(size=12), RNG.random(3001) * 4 + 3
        out = np.empty_like(values)
        loops.chebyshev_sum(coefficients, 5.0, 2.0, values, out)
        expected = np.polynomial.chebyshev.chebval((values - 5) / 2, coefficients)
        np.testing.assert_allclose(out, expected, atol=1e-12)

    def test_rows_are_filled_in_the_order_of_pairs(self):
        weight, block = RNG.random(9 + 8 + 7), np.full((3, 10), np.nan)
        loops.fill_rows(weight, block)
        i, j = np.triu_indices(3, 1, 10)
        np.testing.assert_array_equal(block[i, j], weight)
        np.testing.assert_array_equal(block[:, :3], block[:, :3].T)
        assert not np.diag(block).any()


class TestRate:
    """Above the number of pairs from which the loops are used."""

    @pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
    @pytest.mark.parametrize("offset", [0.0, 1000.0])
    def test_value(self, scale, offset):
        x = ((gauss(64, 80) + offset) * scale).float()
        assert ss_rate(x).item() == pytest.approx(reference.area_rate(x).item(), abs=1e-6)
        for gradient in ("exact", "straight-through"):
            value = ss_rate(x, scales=256, gradient=gradient).item()
            assert value == pytest.approx(reference.paper_rate(x), abs=2e-6)

    @pytest.mark.parametrize("offset", [0.0, 1000.0])
    @pytest.mark.parametrize("ends", ["attached", "detached"])
    def test_exact_gradient(self, ends, offset):
        x = (gauss(64, 80) + offset).float()
        _, got = gradients_of(x, ends=ends)
        y = x.double().requires_grad_()
        (expected,) = torch.autograd.grad(reference.area_rate(y, detach_ends=ends == "detached"), y)
        assert (got - expected).norm() <= 1e-5 * expected.norm()

    # The series; and the sum itself, at lengths of which float32 does not hold enough digits.
    @pytest.mark.parametrize(
        ("scale", "dtype", "tolerance"),
        [(1.0, torch.float32, 1e-5), (1.0, torch.float64, 1e-9), (3000.0, torch.float64, 1e-9)],
    )
    def test_straight_through_gradient(self, scale, dtype, tolerance):
        x = (gauss(12, 70) * scale).to(dtype)
        _, got = gradients_of(x, scales=256, gradient="straight-through")
        expected = reference.straight_through_gradient(x.double())
        assert (got - expected).norm() <= tolerance * expected.norm()

    @pytest.mark.parametrize("options", [{"ends": "detached"}, {"scales": 64, "gradient": "straight-through"}])
    def test_gradient_does_not_depend_on_blocks(self, options, monkeypatch):
        x = gauss(16, 200)
        whole = gradients_of(x, **options)
        monkeypatch.setattr(distances, "_ROWS", 48)  # the last block has fewer
        monkeypatch.setattr(paper, "_KEPT", 0)
        got = gradients_of(x, **options)
        assert got[0] == pytest.approx(whole[0], abs=1e-14)
        assert (got[1] - whole[1]).norm() <= 1e-12 * whole[1].norm()

    @pytest.mark.parametrize("numba", [True, False])
    @pytest.mark.parametrize(
        "options",
        [{}, {"quantiles": (0.05, 0.95)}, {"unit": "median"}, {"scales": 256, "gradient": "straight-through"}],
    )
    @pytest.mark.parametrize("name", ["gauss", "clusters"])
    def test_float32_with_and_without_numba(self, options, name, numba, request):
        x = known_activations(name, n=90)
        expected = gradients_of(x.float().double(), **options)
        if not numba:
            request.getfixturevalue("no_loops")
        value, gradient = gradients_of(x.float(), **options)
        assert value == pytest.approx(expected[0], abs=2e-6)
        assert (gradient - expected[1]).norm() <= 2e-5 * expected[1].norm()
        assert torch.equal(gradients_of(x.float(), **options)[1], gradient)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    @pytest.mark.filterwarnings("ignore:invalid value")
    def test_bad_values_without_check_give_nan(self, bad):
        x = gauss(8, 80).float()
        x[2, 3] = bad
        assert ss_rate(x, check=False).isnan()


@pytest.mark.long
def test_numba_is_imported_only_for_many_pairs():
    code = (
        "import sys, torch, selfsim\n"
        "selfsim.ss_rate(torch.randn(4, 20)); few = 'numba' in sys.modules\n"
        "selfsim.ss_rate(torch.randn(4, 80)); print(few, 'numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_longest_distance_alone_stands_at_the_end_of_the_axis(dtype):
    """Counts at the last scale leave it out, so a position below 1 by rounding would lose a box."""
    for seed in range(200):
        random = np.random.default_rng(seed)
        raw = (random.uniform(0.5, 20) * random.random(100)).astype(dtype)
        axis = axis_of(raw, np.ones(1, dtype), RateOptions())
        u = axis.positions(axis.offsets(raw))
        assert np.flatnonzero(u == 1).tolist() == [raw.argmax()]
