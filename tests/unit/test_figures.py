"""The content of the figures, read from Matplotlib's artists and from the SVG."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

pytest.importorskip("matplotlib")

from rl_scaling_callback.core.attribution import CAUSES
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.report import figures
from tests.builders import MONOTONE, curve, nan_row, report_of, run, sampled, users_ten

SHARES = dict.fromkeys(CAUSES, 0.0) | {"serial_stepping": 12.0, "contention": -4.0, "learn": 10.0}


@pytest.fixture(scope="module")
def user():
    return report_of(*users_ten()).studies[0]


@pytest.fixture(scope="module")
def full():
    """A study for which every figure can be drawn, with a negative share."""
    study = report_of(sampled("1r1e", [3.0, 2.2, 2.0, 2.1, 1.9]), sampled("2r1e", [2.0, 1.5, 1.2, 1.3, 1.25])).studies[0]
    one, two = study.configurations
    return replace(study, configurations=(one, replace(two, losses=SHARES | {"learn": two.loss - 8})))


@pytest.fixture(scope="module")
def learning():
    """A study of which every run stays at a return of 150."""
    return report_of(curve("1r1e", MONOTONE), curve("2r1e", MONOTONE, 0.5), curve("2r1e", MONOTONE, 0.6)).studies[0]


def points(axes, label):
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return dict(zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_speedup_shows_every_configuration_and_the_ideal(user):
    (axes,) = figures.speedup_over_n(user).axes
    assert points(axes, "ideal") == {1: 1, 32: 32}
    shown = [points(axes, f"{envs} per runner").items() for envs in ("1 env", "2 envs", "4 envs", "8 envs")]
    assert set().union(*shown) == {(c.scale.parallelism, c.speedup) for c in user.configurations}
    curves = [line for line in axes.get_lines() if line.get_label() == "scaling law with 95 % band"]
    for law, envs in zip(curves, (1, 2, 4, 8), strict=True):
        drawn = dict(zip(law.get_xdata(), law.get_ydata(), strict=True))
        assert drawn[16] == user.law.predict(Scale(16 // envs, envs)).speedup


def test_speedup_by_runners_if_only_envs_vary():
    study = report_of(run("2r1e", [1.0] * 3), run("2r2e", [0.7] * 3), run("1r1e", [1.9] * 3), run("2r4e", [0.5] * 3)).studies[0]
    (axes,) = figures.speedup_over_n(study).axes
    assert set(points(axes, "2 env runners")) == {2, 4, 8}


@pytest.mark.parametrize("error", [7.0, 150.0])
def test_speedup_draws_errors(full, error):
    one, two = full.configurations
    two = replace(two, speedup=1.5, speedup_error=error)
    (axes,) = figures.speedup_over_n(replace(full, configurations=(one, two))).axes
    (bar,) = [
        path.vertices for each in axes.collections for path in each.get_paths() if len(path) == 2 and path.vertices[0][0] == 2
    ]
    assert bar[:, 1] == pytest.approx([1.5 / (1 + error / 100), 1.5 * (1 + error / 100)])
    assert axes.get_ylim()[0] <= bar[0, 1]


def test_losses_add_up_including_negative_shares(full):
    (axes,) = figures.loss_by_cause(full).axes
    widths = [patch.get_width() for patch in axes.patches]
    assert -4.0 in widths
    assert sum(widths) == pytest.approx(full.configurations[1].loss)
    assert max(patch.get_x() + patch.get_width() for patch in axes.patches) == pytest.approx(full.configurations[1].loss + 4)
    assert list(points(axes, "100 − efficiency")) == [full.configurations[1].loss]


def test_returns_over_training_time_with_a_marker_where_each_run_stays_at_the_target(user, learning):
    assert figures.learning_curves(user) is None
    (axes,) = figures.learning_curves(learning).axes
    lines = axes.get_lines()
    assert [line.get_label() for line in lines if not line.get_label().startswith("_")] == ["1r×1e", "2r×1e", "return 150"]
    marked = [(line.get_xdata()[at], line.get_ydata()[at]) for line in lines[:3] for at in line.get_markevery()]
    assert marked == [(15.0, 150.0), (7.5, 150.0), (9.0, 150.0)]


@pytest.mark.parametrize("picture", figures.PICTURES, ids=lambda picture: picture.name)
def test_svg_is_reproducible_and_absent_without_numbers(picture, full, learning):
    study = learning if picture.name == "returns" else full
    svg = picture.svg(study, "a-")
    assert svg == picture.svg(study, "a-")
    assert [*ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")], "texts are text, not outlines"
    assert picture.svg(report_of(nan_row()).studies[0]) is None
