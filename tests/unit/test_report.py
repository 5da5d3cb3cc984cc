"""The report as text and JSON."""

import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from rl_scaling_callback.analysis.goals import GOALS
from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Run, Study
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.report import make_report, print_report, render_page, to_json
from rl_scaling_callback.report.columns import COLUMNS
from rl_scaling_callback.report.decisions import code_text
from tests import golden
from tests.builders import MADE, nan_row, report_of, run, users_ten, window

HOSTILE = "<script>alert(1)</script>|*x*\n\x1b[31m"


def printed(report, width, **options):
    written = io.StringIO()
    print_report(report, Console(file=written, width=width), **options)
    return written.getvalue()


@pytest.fixture(scope="module")
def report():
    return report_of(*users_ten())


@pytest.mark.parametrize("name", golden.REPORTS)
def test_golden_reports(name):
    assert golden.text(name) == (golden.FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def test_goal_and_reference_can_be_strings():
    made = make_report(Experiment("here", (Study("test", users_ten()),)), "save", "1r1e")
    assert made.studies[0].recommendation.goal == GOALS["save"]
    with pytest.raises(ValueError, match="goal is 'cheap'"):
        make_report(Experiment("here", ()), "cheap")


def test_default_report_fits_a_screen_and_ends_with_the_decision(report):
    lines = printed(report, 80).rstrip().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "Use 4r×1e: 2.71×, 67.7 %. Goal balanced: met."
    assert lines[-2] == code_text(report.studies[0].recommendation)
    assert not any("law" in line or "Is the" in line for line in lines)


def test_requested_goal_comes_first(report):
    assert list(report.studies[0].recommendations) == ["balanced", "save", "fastest"]
    assert list(report_of(*users_ten(), goal=GOALS["fastest"]).studies[0].recommendations) == ["fastest", "save", "balanced"]


def test_narrow_terminal_names_dropped_columns(report):
    assert "Columns left out" not in printed(report, 200)
    narrow = printed(report, 60)
    assert "Columns left out to fit the terminal: time, loss, SPS per CPU" in " ".join(narrow.split())
    assert max(map(len, narrow.split("Goal")[0].splitlines())) <= 80
    assert re.search(r"4r×1e +4 +3,730 +2\.71 +67\.7 +good", narrow)


def test_json_has_full_precision_and_null_for_nan(report):
    document = json.loads(to_json(report))
    (study,) = document["studies"]
    for row, c in zip(study["configurations"], report.studies[0].configurations, strict=True):
        assert (row["config"], row["sps"], row["speedup"], row["efficiency"]) == (str(c.scale), c.sps, c.speedup, c.efficiency)
        assert row["sps_error"] is None
    assert study["recommendations"]["balanced"]["choice"] == "4r×1e"
    assert study["laws"]["limit"] == list(report.studies[0].laws.limit)
    assert [each["config"] for each in study["laws"]["predictions"]] == [str(f.scale) for f in report.studies[0].predictions()]


def test_predictions_fill_the_grid_and_double_the_runners(report):
    study = report.studies[0]
    predictions = study.predictions()
    measured = {c.scale for c in study.configurations}
    assert {each.scale for each in predictions} == {Scale(r, e) for r in (1, 2, 4, 8, 16) for e in (1, 2, 4, 8)} - measured
    assert all(each.speedup > 0 and each.speedup_error > 0 for each in predictions)


def test_external_baseline_is_used_for_the_laws():
    given = Run(name="an older experiment", scale=Scale(1, 1), steady=window([4.0] * 3))
    runs = [run(scale, [seconds] * 3) for scale, seconds in (("2r1e", 2.2), ("4r1e", 1.2), ("8r1e", 0.7))]
    laws = report_of(*runs, baseline=given).studies[0].laws
    assert Scale(1, 1) in laws.fitted_to
    assert laws.chosen.predict(Scale(1, 1)).speedup == pytest.approx(1, rel=0.1)


def test_figures_relative_to_the_smallest_scale_are_headed_so():
    report = report_of(run("2r1e", [1.0] * 5), run("4r1e", [0.6] * 5))
    sentence = "Speedup is relative to 2r×1e, the smallest scale measured, and efficiency to its N."
    text = printed(report, 80)
    assert sentence in " ".join(text.split())
    assert text.index("Speedup is relative") < text.index("config")
    assert sentence in render_page(report)
    assert json.loads(to_json(report))["studies"][0]["remarks"] == [sentence]
    assert report_of(run("1r1e", [1.0] * 5), run("4r1e", [0.6] * 5)).studies[0].remarks == ()


def test_superlinear_efficiency_is_pointed_out_if_it_is_no_noise():
    def remarks(seconds):
        return report_of(run("1r1e", [1.0]), run("4r1e", [seconds])).studies[0].remarks

    assert remarks(1 / 4.3) == ("Superlinear: 4r×1e (108 %). Is the work per env step the same, and was the baseline undisturbed?",)
    assert remarks(1 / 4.04) == ()
    assert report_of(run("1r1e", [1.0] * 5), run("4r1e", [1 / 4.3] * 5)).studies[0].remarks == (), "within its error"


def test_error_beyond_use_is_said_in_words():
    report = report_of(run("1r1e", [1.0, 4.0, 0.3]), run("2r1e", [0.5, 3.0, 0.2]))
    assert re.search(r"2r×1e .* ± > 100 %", printed(report, 200))
    assert not re.search(r"± \d{3}", printed(report, 200, verbose=True))


def test_many_studies_take_one_line_each():
    studies = [Study(f"study {index}", (run("1r1e", [1.0]), run("2r1e", [0.6]))) for index in range(6)]
    lone = Study("alone", (run("4r1e", [0.5]),))
    report = make_report(Experiment("here", (*studies, lone), notes=("A note.",)), made=MADE)
    lines = printed(report, 200).splitlines()
    assert lines[0] == "A note."
    assert "A note." in render_page(report)
    assert json.loads(to_json(report))["notes"] == ["A note."]
    assert sum(line.startswith(" 2r×1e") for line in lines) == 4
    assert [line for line in lines if line][-4:] == [
        "Other studies (--verbose shows their tables)",
        "study 4: Use 2r×1e: 1.67×, 83.3 %. Goal balanced: not met.",
        "study 5: Use 2r×1e: 1.67×, 83.3 %. Goal balanced: not met.",
        "alone: only 4r×1e, 2,000 steps/s",
    ]
    assert sum(line.startswith(" 2r×1e") for line in printed(report, 200, verbose=True).splitlines()) == 6


def test_what_shares_a_reason_is_left_out_in_one_line():
    left = [LeftOut(f"trial {index}", "no result") for index in range(5)]
    text = printed(report_of(left_out=(*left, LeftOut("x", "it is offline"))), 200)
    assert text.count("no result") == 1
    assert "Left out: trial 0, trial 1, trial 2 and 2 more: no result" in text


def test_experiment_without_runs():
    report = report_of(left_out=(LeftOut("PPO_1", "no result"),))
    text = printed(report, 80)
    assert "Nothing to show" in text
    assert "Left out: PPO_1: no result" in text
    assert json.loads(to_json(report))["studies"] == []


def test_text_from_runs_is_escaped():
    report = report_of(run("1r1e", [1.0] * 5, notes=(HOSTILE,)), left_out=(LeftOut(HOSTILE, "[bold] :smile: {0}"),))
    terminal = printed(report, 200, verbose=True)
    assert "\x1b" not in terminal
    assert "Left out: <script>alert(1)</script>|*x*" in terminal
    assert "[bold] :smile: {0}" in terminal
    assert json.loads(to_json(report))["left_out"] == [{"name": HOSTILE, "reason": "[bold] :smile: {0}"}]


def test_heavy_imports_are_deferred():
    code = (
        "import sys, rl_scaling_callback.report as report; report.make_report; report.to_json\n"
        "print([m for m in ('ray', 'torch', 'matplotlib', 'jinja2', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_numbers_are_dashes():
    (c,) = report_of(nan_row()).studies[0].configurations
    cells = {column.name: column.cell(c) for column in COLUMNS}
    assert math.isnan(c.sps)
    assert {name for name, cell in cells.items() if cell == "–"} == set(cells) - {"config", "parallelism"}


def test_repr_of_a_report_is_its_recommendation():
    assert repr(report_of(*users_ten())) == "<Report: PPO on HalfCheetah-v5: Use 4r×1e: 2.71×, 67.7 %>"
