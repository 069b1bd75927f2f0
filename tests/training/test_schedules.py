"""Time-variant targets: closed forms, the null, and what the adaptive one makes of losses."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfsim import SelfSimilarityConstraint, TrainConfig, ss_rate, train
from selfsim.rate.options import RateOptions
from selfsim.training import schedules
from selfsim.training.schedules import (
    Adaptive,
    Constant,
    Cosine,
    FollowTheNull,
    Hold,
    Linear,
    Piecewise,
    ScheduleInput,
    schedule_from,
)

rates = st.floats(0, 1)

# Many tests look at values alone, of activations without gradient.
pytestmark = pytest.mark.filterwarnings("ignore:activations. got no gradient")


def at(progress: float) -> ScheduleInput:
    return ScheduleInput(progress, samples=64, neurons=48)


@pytest.mark.parametrize(
    ("losses", "stalls"),
    [
        ((1.0, 0.5, 0.9, 0.4, 0.6), False),  # the best of the last two, 0.4, counts
        ((1.0, 0.5, 0.9, 0.49, 0.6), True),  # and the best before them, 0.5
        ((1.0, 0.9), False),  # nothing before
    ],
)
def test_adaptive_compares_the_best_losses_and_goes_to_the_present_rate(losses, stalls):
    past = replace(at(0.5), task_losses=losses, rates=(0.9, 0.3), target=0.2)
    expected = 0.2 + 0.5 * ((0.3 if stalls else 0.1) - 0.2)
    assert Adaptive(goal=0.1, patience=2, least=0.1, share=0.5)(past) == pytest.approx(expected)


def test_hold_stays_in_the_range_of_targets():
    assert Hold(0.5)(replace(at(0.6), rates=(0.2, 1.3))) == 1.0


@pytest.mark.parametrize("draws", [1, 3])
def test_the_null_that_is_followed_is_a_mean_over_its_draws(draws):
    generator = torch.Generator().manual_seed(4)
    noise = [ss_rate(torch.randn(64, 48, generator=generator)).item() for _ in range(draws)]
    assert FollowTheNull(draws=draws, seed=4)(at(0.0)) == pytest.approx(math.fsum(noise) / draws)


@given(start=rates, end=rates, progress=rates)
def test_closed_forms(start, end, progress):
    cosine = start + (end - start) * math.sin(math.pi * progress / 2) ** 2
    assert Cosine(start, end)(at(progress)) == pytest.approx(cosine, abs=1e-12)
    assert Linear(start, end)(at(progress)) == pytest.approx((1 - progress) * start + progress * end, abs=1e-12)
    assert Constant(start)(at(progress)) == start
    assert Piecewise([(0, start), (0.5, end)])(at(progress)) == (start if progress < 0.5 else end)


class TestFollowTheNull:
    def test_is_the_mean_rate_of_noise_of_this_shape_and_measure(self):
        for measure in (RateOptions(), RateOptions(unit="median", quantiles=(0.05, 0.95))):
            moment = replace(at(0), measure=measure)
            draws = torch.randn(200, 64, 48, generator=torch.Generator().manual_seed(123))
            values = torch.stack([ss_rate(x, unit=measure.unit, quantiles=measure.quantiles) for x in draws])
            error = values.std().item() * math.sqrt(1 / 200 + 1 / 100)
            assert abs(FollowTheNull(draws=100)(moment) - values.mean().item()) < 4 * error
            assert error < 0.1 * values.mean().item()

    def test_offset_and_repetition(self):
        state = torch.get_rng_state()
        null = FollowTheNull()(at(0))
        assert FollowTheNull(offset=-0.1)(at(0.7)) == pytest.approx(null - 0.1, abs=1e-15)
        assert FollowTheNull(offset=-1)(at(0)) == 0
        assert FollowTheNull(offset=1)(at(0)) == 1
        assert FollowTheNull(seed=1)(at(0)) != null
        assert torch.equal(state, torch.get_rng_state())

    def test_follows_the_shape_of_each_layer(self):
        constraint = SelfSimilarityConstraint(
            {"schedule": "follow-the-null", "offset": -0.05, "draws": 3}, unit="absolute"
        )
        layers = {"narrow": torch.randn(32, 10), "wide": torch.randn(32, 80)}
        constraint(layers)
        for layer, values in layers.items():
            expected = FollowTheNull(-0.05, draws=3)(ScheduleInput(0, *values.shape))
            assert constraint.targets[layer] == pytest.approx(expected)
        assert constraint.targets["narrow"] != constraint.targets["wide"]


class TestAdaptive:
    def targets(self, losses, *, rate=0.3, **options) -> list[float]:
        """The targets after each epoch, of a layer whose rate does not move."""
        schedule, target, seen = Adaptive(0.1, **options), None, []
        for epoch in range(len(losses) + 1):
            moment = replace(at(0), task_losses=tuple(losses[:epoch]), rates=(rate,) * epoch, target=target)
            target = schedule(moment)
            seen.append(target)
        return seen

    def test_stays_at_the_goal_while_the_loss_falls(self):
        assert self.targets([0.9**k for k in range(10)]) == pytest.approx([0.1] * 11)

    def test_backs_off_while_it_stalls_and_comes_back_when_it_falls(self):
        found = self.targets([1.0, 0.5, 0.5, 0.5, 0.5, 0.3, 0.2, 0.1], patience=2)
        #        start and 3 epochs at the goal; stalled for 2 epochs: half the way to .3, then half of the rest;
        #        then the loss falls, and the way back to .1 is halved each time
        assert found == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.2, 0.25, 0.175, 0.1375, 0.11875])

    def test_a_loss_that_rises_or_hardly_falls_stalls(self):
        for losses in ([1.0, 1.1, 1.2, 1.3], [1.0, 0.999, 0.998, 0.997], [-1.0, -1.0, -1.001, -0.9]):
            assert self.targets(losses, patience=1)[-1] > 0.2
        assert self.targets([-1.0, -1.1, -1.3, -1.5], patience=1)[-1] == pytest.approx(0.1)

    @given(st.lists(st.floats(0, 5), min_size=1, max_size=12), rates, st.floats(0.01, 1))
    def test_never_leaves_the_way_between_goal_and_rate(self, losses, rate, share):
        low, high = sorted((0.1, rate))
        assert all(low - 1e-12 <= t <= high + 1e-12 for t in self.targets(losses, rate=rate, share=share))


SCHEDULES = [
    Constant(0.2),
    Linear(0.2, 0.1),
    Cosine(0.2, 0.1),
    Piecewise([(0, 0.2), (0.5, 0.1)]),
    FollowTheNull(-0.1),
    Adaptive(0.1, patience=3),
    Hold(0.5),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.schedule)
def test_plain_data_and_back(schedule):
    plain = asdict(schedule)
    assert plain["schedule"] == schedule.schedule
    assert schedule_from(plain) == schedule
    assert schedule_from(schedule) is schedule


def test_every_schedule_stands_on_its_page():
    assert {schedule.schedule for schedule in SCHEDULES} == set(schedules._BY_NAME)
    page = (Path(__file__).parents[2] / "book/api-training.md").read_text(encoding="utf-8")
    for schedule in SCHEDULES:
        assert f"autoclass:: selfsim.training.schedules.{type(schedule).__name__}\n" in page


def test_the_old_name_of_what_a_schedule_gets_warns():
    with pytest.warns(DeprecationWarning, match="Moment is now called ScheduleInput"):
        assert schedules.Moment is ScheduleInput
    with pytest.raises(AttributeError, match="has no attribute 'Momnt'"):
        _ = schedules.Momnt


def test_a_number_is_a_constant():
    assert schedule_from(0.2) == Constant(0.2)


def test_a_run_from_plain_data_keeps_the_targets_of_every_epoch():
    constraint = {"target": {"schedule": "linear", "start": 0.2, "end": 0.1}}
    config = TrainConfig("mlp", epochs=3, train_images=200, constraint=constraint)
    run = train(config, images=config.load_images(), device="cpu")
    for layer in run.layers:
        assert run.series("target", split="train", layer=layer) == pytest.approx([0.2, 0.15, 0.1])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"schedule": "cosin", "start": 0.2, "end": 0.1}, "target: schedule: got 'cosin'.*did you mean 'cosine'"),
        ({"start": 0.2, "end": 0.1}, "target: schedule: got None, need one of 'constant'"),
        ({"schedule": "linear", "start": 0.2}, r"target: linear got \['start'\], need \['start', 'end'\]"),
        ({"schedule": "adaptive", "patiense": 2}, "adaptive: got 'patiense'.*did you mean 'patience'"),
        ({"schedule": "linear", "start": 2, "end": 0.1}, "start: got 2"),
        ({"schedule": "cosine", "start": 0.2, "end": "0.1"}, "end: got '0.1', need a number"),
        ({"schedule": "piecewise", "phases": []}, "phases: got"),
        ({"schedule": "piecewise", "phases": [0.1, 0.2]}, "phases: got|need"),
        ({"schedule": "piecewise", "phases": [(0.5, 0.1)]}, "phases: got .*ascend from 0"),
        ({"schedule": "piecewise", "phases": [(0, 0.1), (0.6, 0.2), (0.5, 0.1)]}, "phases: got .*ascend"),
        ({"schedule": "piecewise", "phases": [(0, 1.1)]}, "phases: got 1.1"),
        ({"schedule": "follow-the-null", "offset": 2}, "offset: got 2"),
        ({"schedule": "follow-the-null", "draws": 0}, "draws: got 0"),
        ({"schedule": "adaptive", "patience": 0}, "patience: got 0"),
        ({"schedule": "adaptive", "share": 0}, "share: got 0"),
        ({"schedule": "adaptive", "least": 1}, "least: got 1"),
        ("linear", "target: got 'linear', need a number"),
        (float("nan"), "target: got nan"),
    ],
)
def test_messages(target, message):
    with pytest.raises(ValueError, match=message):
        schedule_from(target)
