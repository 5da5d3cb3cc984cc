"""The report as text and JSON."""

import io
import json
import re

import pytest
from rich.console import Console

from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Study
from rl_scaling_callback.report import make_report, print_report, render_page, to_json
from tests import golden
from tests.builders import MADE, report_of, run, users_ten

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


def test_goal_and_reference_can_be_strings(report):
    made = make_report(report.experiment, "fastest", "2r1e").studies[0]
    assert [*made.recommendations] == ["fastest", "save", "balanced"], "the requested goal comes first"
    assert {str(each.scale): each.efficiency for each in made.configurations}["2r×1e"] == 100
    assert repr(report) == "<Report: PPO on HalfCheetah-v5: Use 4r×1e: 2.71×, 67.7 %>"


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
    assert [each["config"] for each in study["laws"]["predictions"]] == [str(f.scale) for f in report.studies[0].predictions()]


def test_superlinear_efficiency_within_its_error_is_not_pointed_out():
    assert report_of(run("1r1e", [1.0] * 5), run("4r1e", [1 / 4.3] * 5)).studies[0].remarks == ()


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
    others = [LeftOut(f"x{index}", f"reason {index}") for index in range(4)]
    report = report_of(left_out=(*left, *others))
    text = printed(report, 200)
    assert "Left out: 2 more (--verbose lists them)" in text
    assert "Left out: trial 0, trial 1, trial 2 and 2 more: no result" in text
    assert "Nothing to show" in text
    assert json.loads(to_json(report))["studies"] == []


def test_text_from_runs_is_escaped():
    report = report_of(run("1r1e", [1.0] * 5, notes=(HOSTILE,)), left_out=(LeftOut(HOSTILE, "[bold] :smile: {0}"),))
    terminal = printed(report, 200, verbose=True)
    assert "\x1b" not in terminal
    assert "Left out: <script>alert(1)</script>|*x*" in terminal
    assert "[bold] :smile: {0}" in terminal
    assert json.loads(to_json(report))["left_out"] == [{"name": HOSTILE, "reason": "[bold] :smile: {0}"}]
