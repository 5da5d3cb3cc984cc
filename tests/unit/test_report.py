"""The report in a terminal and as a page, and its figures. The sentences are in tests/data/reports."""

import html
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from rich.console import Console

from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Study
from rl_scaling_callback.core.attribution import CAUSES
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.report import figures, make_report, print_report, render_page
from rl_scaling_callback.report.decisions import alternatives, code_text, doubt_lines, why_lines
from rl_scaling_callback.report.sections import remarks, sections
from rl_scaling_callback.report.study import columns_of
from tests import golden
from tests.builders import MADE, MONOTONE, curve, nan_row, report_of, run, sampled, users_ten

HOSTILE = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">|*x*\n\x1b[31m[bold] :smile: {0}"


def printed(report, width=200, **options):
    written = io.StringIO()
    print_report(report, Console(file=written, width=width), **options)
    return written.getvalue()


def words(page):
    """Return the text of a page."""
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", "", page, flags=re.DOTALL)).split())


@pytest.fixture(scope="module")
def report():
    return report_of(*users_ten())


@pytest.mark.parametrize("name", golden.REPORTS)
def test_golden_reports(name):
    assert golden.text(name) == (golden.FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def test_goal_and_reference_can_be_strings(report):
    made = make_report(report.experiment, "fastest", "2r1e").studies[0]
    assert [*made.recommendations] == ["fastest", "save", "balanced"], "the requested goal comes first"
    assert {str(each.scale): each.efficiency for each in made.configurations}["2r×1e"] == 100
    assert repr(report) == "<Report: PPO on HalfCheetah-v5: Use 4r×1e: 2.71×, 67.7 %>"


def test_narrow_terminal_names_dropped_columns(report):
    assert "Columns left out" not in printed(report)
    narrow = printed(report, 60)
    assert "Columns left out to fit the terminal: time, loss, SPS per CPU" in " ".join(narrow.split())
    assert max(map(len, narrow.splitlines())) <= 80  # the line of code is not wrapped
    assert re.search(r"4r×1e +4 +3,730 +2\.71 +67\.7 +good", narrow)


def test_superlinear_efficiency_within_its_error_is_not_pointed_out():
    assert not [*remarks(report_of(run("1r1e", [1.0] * 5), run("4r1e", [1 / 4.3] * 5)).studies[0])]


def test_many_studies_take_one_line_each():
    studies = [Study(f"study {index}", (run("1r1e", [1.0]), run("2r1e", [0.6]))) for index in range(5)]
    report = make_report(Experiment("here", (*studies, Study("alone", (run("4r1e", [0.5]),))), notes=("A note.",)), made=MADE)
    lines = [line for line in printed(report).splitlines() if line]
    assert lines[0] == "A note."
    assert "A note." in words(render_page(report))
    assert sum(line.startswith(" 2r×1e") for line in lines) == 4
    assert lines[-3:] == [
        "Other studies (--verbose shows their tables)",
        "study 4: Use 2r×1e: 1.67×, 83.3 %. Goal balanced: not met.",
        "alone: Use 4r×1e: 1.00×, 100 %. Goal balanced: not met.",
    ]
    assert sum(line.startswith(" 2r×1e") for line in printed(report, verbose=True).splitlines()) == 5


def test_what_shares_a_reason_is_left_out_in_one_line():
    left = [LeftOut(f"trial {index}", "no result") for index in range(5)]
    text = printed(report_of(left_out=(*left, *(LeftOut(f"x{index}", f"reason {index}") for index in range(4)))))
    assert "Left out: 2 more (--verbose lists them)" in text
    assert "Left out: trial 0, trial 1, trial 2 and 2 more: no result" in text
    assert "Nothing to show" in text


def test_page_shows_the_data(report):
    page, (study,) = render_page(report), report.studies
    columns = columns_of(study.configurations)
    cells = re.findall(r'data-column="(\w+)"[^>]*>([^<]*)<', page)
    assert cells == [(column.name, column.cell(c)) for c in study.configurations for column in columns]
    asked = study.recommendation
    behind = [line for lines in sections(study).values() for line in lines]
    texts = (*why_lines(asked), *doubt_lines(asked), *alternatives(study), code_text(asked), *behind)
    for text in ("Use 4r×1e", *texts, "Goal balanced", "2026-11-22 12:00 UTC"):
        assert " ".join(text.split()) in words(page)
    # The speedup is drawn, and the text of the figure is part of the page; there are no losses to draw.
    assert page.count("<svg") == 1
    assert "N = env runners × envs per runner" in words(page)


def test_page_is_self_contained_and_its_ids_are_unique(report):
    page = render_page(replace(report, studies=report.studies * 2))
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert not re.search("<(script|link|iframe|object|embed)", page)
    links = re.findall(r'\b(?:src|href)="([^"]*)"|url\(([^)]*)\)', page)
    assert links
    assert all((link or url).startswith("#") for link, url in links)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("runs", [[], [nan_row()], [run("2r1e", [1.0] * 5), run("4r1e", [0.6] * 5)], [run("1r1e", [1.0] * 5)]])
def test_page_reports_what_is_missing(runs):
    report = report_of(*runs)
    text = words(render_page(report))
    missing = [line for study in report.studies for line in doubt_lines(study.recommendation)]
    assert all(line in text for line in missing or ["No run of this experiment could be read."])
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_text_from_runs_is_escaped():
    runs = [replace(sampled("1r1e", [3.0, 2.2, 2.0, 2.1, 1.9]), name=HOSTILE, notes=(HOSTILE,)), run("2r1e", [1.0, 1.1, 0.9])]
    report = report_of(*runs, left_out=(LeftOut(HOSTILE, HOSTILE),), facts={HOSTILE: HOSTILE})
    report = replace(report, provenance={"Source": HOSTILE})
    terminal, page = printed(report, 1000, verbose=True), render_page(report)
    assert "\x1b" not in terminal
    assert not re.search("<(script|img)", page)
    shown = " ".join(HOSTILE.replace("\x1b", " ").split())
    assert min(" ".join(terminal.split()).count(shown), words(page).count(shown)) >= 5


# ---------------------------------------------------------------- figures, read from Matplotlib's artists and from the SVG


SHARES = dict.fromkeys(CAUSES, 0.0) | {"serial_stepping": 12.0, "contention": -4.0, "learn": 10.0}


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


def test_speedup_shows_every_configuration_and_the_ideal(report):
    (user,) = report.studies
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


def test_returns_over_training_time_with_a_marker_where_each_run_stays_at_the_target(report, learning):
    assert figures.learning_curves(report.studies[0]) is None
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
