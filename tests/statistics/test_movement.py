"""Movement: shares of neighbours, boxes and driving neurons that stay."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from selfsim import movement
from selfsim.statistics.movement import Arrangement


def drawn(samples: int, neurons: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, neurons, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_rigid_motion_keeps_everything():
    x = drawn(30, 40)
    rotation = torch.linalg.qr(drawn(30, 30, seed=1)).Q
    moved = movement(x, rotation @ x + drawn(30, 1, seed=2))
    assert (moved.neighbours_kept, moved.boxes_kept, moved.drivers_kept) == (1, pytest.approx(1), 1)


def test_independent_layers_keep_what_chance_keeps():
    n = 80
    found = [movement(drawn(32, n, seed=2 * k), drawn(32, n, seed=2 * k + 1)) for k in range(20)]
    assert np.mean([m.neighbours_kept for m in found]) == pytest.approx(10 / (n - 1), abs=0.01)
    assert np.mean([m.boxes_kept for m in found]) == pytest.approx(0, abs=0.02)
    assert np.mean([m.drivers_kept for m in found]) == pytest.approx(4 / n, abs=0.08)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_any_autograd_mode(mode):
    x, y = drawn(30, 40), drawn(30, 40, seed=1)
    expected = movement(x, y, neighbours=np.int64(10))
    with mode():
        assert movement(x, y) == expected
        assert movement(x + 0, y + 0) == expected  # in inference mode, these are inference tensors
    inside = torch.nn.Parameter(x)
    assert movement(inside, y) == expected
    assert inside.grad is None


def test_neighbours_are_those_of_a_plain_search():
    x, y = drawn(20, 25), drawn(20, 25) + 0.7 * drawn(20, 25, seed=3)
    kept = []
    nearest = [np.argsort(cdist(z.T, z.T), 1)[:, 1:5] for z in (x, y)]
    for a, b in zip(*nearest, strict=True):
        kept.append(len(set(a) & set(b)) / 4)
    assert movement(x, y, neighbours=4).neighbours_kept == pytest.approx(np.mean(kept))


def test_boxes_follow_clusters_that_change_hands():
    place = 10 * drawn(16, 4, seed=5)
    labels = torch.arange(40) % 4
    x = place[:, labels] + 0.01 * drawn(16, 40)
    assert movement(x, x + 0.01 * drawn(16, 40, seed=1), boxes=4).boxes_kept == 1
    swapped = labels.clone()
    swapped[labels == 0] = torch.arange(10) % 4
    assert movement(x, place[:, swapped] + 0.01 * drawn(16, 40), boxes=4).boxes_kept < 0.9


def test_drivers_are_the_ends_of_the_shortest_and_the_longest_edge():
    x, y = drawn(64, 50), drawn(64, 50)
    x[:, 7] = x[:, 3] + 0.01 * x[:, 5]
    y[:, 8] = y[:, 4] + 0.01 * y[:, 5]
    assert movement(x, x + 1).drivers_kept == 1
    assert movement(x, y).drivers_kept == 0.5  # the ends of the longest edge are the same


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"after": drawn(5, 7)}, "after: got 7 neurons, need the 6 of before"),
        ({"after": drawn(5, 6), "neighbours": 0}, "neighbours: got 0, need an integer of at least 1"),
        ({"after": drawn(5, 6), "boxes": 0}, "boxes: got 0, need an integer of at least 2"),
        ({"after": drawn(5, 6), "neighbours": 5}, "neighbours: got 5 for 6 neurons, need 1 to 4"),
        ({"after": drawn(5, 6), "boxes": 6}, "boxes: got 6 for 6 neurons, need 2 to 5"),
        ({"after": drawn(5, 6), "drivers": 6}, "drivers: got 6 for 6 neurons, need 1 to 5"),
        ({"after": drawn(5, 6), "drivers": 2.5}, "drivers: got 2.5, need an integer of at least 1"),
        ({"after": torch.full((5, 6), float("nan"))}, "after: .*NaN"),
    ],
)
def test_bad(arguments, message):
    with pytest.raises(ValueError, match=message):
        movement(drawn(5, 6), **arguments)


def test_there_are_as_many_boxes_as_asked_for_where_distances_are_tied():
    groups = torch.eye(10).repeat(1, 3)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    for boxes in (3, 5, 20):
        _, kept, _ = Arrangement(groups, boxes=boxes)._marks
        assert len(set(kept)) == boxes
    assert movement(groups, groups[:, order], boxes=3).boxes_kept < 0.5


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (64, {"neighbours": 10, "boxes": 6, "drivers": 4}),
        (12, {"neighbours": 10, "boxes": 2, "drivers": 4}),
        (11, {"neighbours": 5, "boxes": 2, "drivers": 4}),
        (8, {"neighbours": 3, "boxes": 2, "drivers": 4}),
        (4, {"neighbours": 1, "boxes": 2, "drivers": 3}),
    ],
)
def test_numbers_by_default(n, options):
    before = [drawn(20, n, seed) for seed in range(3)]
    after = [x + 0.7 * drawn(20, n, seed + 9) for seed, x in enumerate(before)]
    for x, y in zip(before, after, strict=True):
        assert movement(x, y) == movement(x, y, **options)
    others = [{name: value + step} for name, value in options.items() for step in (-1, 1)]
    allowed = {"neighbours": range(1, n - 1), "boxes": range(2, n), "drivers": range(1, n)}
    for other in others:
        ((name, value),) = other.items()
        if value in allowed[name] and n > 8:
            assert any(movement(x, y) != movement(x, y, **other) for x, y in zip(before, after, strict=True))
