"""The report in a terminal, as a page and in JSON. The sentences are in tests/data/reports."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Study
from rl_scaling_callback.report import make_report, print_report, render_page, to_json
from rl_scaling_callback.report.columns import columns_of
from rl_scaling_callback.report.decisions import code_text, doubt_lines, why_lines
from rl_scaling_callback.report.sections import alternatives, remarks, sections
from tests import golden
from tests.builders import MADE, PRINTED, nan_row, report_of, run, sampled, users_ten

HOSTILE = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">|*x*\n\x1b[31m[bold] :smile: {0}"


def printed(report, width=200, **options):
    written = io.StringIO()
    print_report(report, Console(file=written, width=width), **options)
    return written.getvalue()


class Page(HTMLParser):
    """The elements and words of a page, and its table of configurations."""

    def __init__(self, report):
        super().__init__()
        self.elements, self.attributes, self.rows, self.cell, self.text = [], [], [], None, []
        self.feed(render_page(report))
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += attributes
        self.cell = dict(attributes).get("data-column")
        if self.cell == "config":
            self.rows.append({})

    def handle_endtag(self, tag):
        self.cell = None

    def handle_data(self, data):
        self.text.append(data)
        if self.cell:
            self.rows[-1][self.cell] = data


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
    studies = [Study(f"study {index}", (run("1r1e", [1.0]), run("2r1e", [0.6]))) for index in range(6)]
    lone = Study("alone", (run("4r1e", [0.5]),))
    report = make_report(Experiment("here", (*studies, lone), notes=("A note.",)), made=MADE)
    lines = printed(report).splitlines()
    assert lines[0] == "A note."
    assert "A note." in Page(report).words
    assert sum(line.startswith(" 2r×1e") for line in lines) == 4
    assert [line for line in lines if line][-4:] == [
        "Other studies (--verbose shows their tables)",
        "study 4: Use 2r×1e: 1.67×, 83.3 %. Goal balanced: not met.",
        "study 5: Use 2r×1e: 1.67×, 83.3 %. Goal balanced: not met.",
        "alone: only 4r×1e, 2,000 steps/s",
    ]
    assert sum(line.startswith(" 2r×1e") for line in printed(report, verbose=True).splitlines()) == 6


def test_what_shares_a_reason_is_left_out_in_one_line():
    left = [LeftOut(f"trial {index}", "no result") for index in range(5)]
    report = report_of(left_out=(*left, *(LeftOut(f"x{index}", f"reason {index}") for index in range(4))))
    text = printed(report)
    assert "Left out: 2 more (--verbose lists them)" in text
    assert "Left out: trial 0, trial 1, trial 2 and 2 more: no result" in text
    assert "Nothing to show" in text


def test_json_has_full_precision_and_null_for_nan(report):
    document = json.loads(to_json(report))
    (study,) = document["studies"]
    for row, c in zip(study["configurations"], report.studies[0].configurations, strict=True):
        assert (row["config"], row["sps"], row["speedup"], row["efficiency"]) == (str(c.scale), c.sps, c.speedup, c.efficiency)
        assert row["sps_error"] is None
    assert study["recommendations"]["balanced"]["choice"] == "4r×1e"
    assert study["limit"] == list(report.studies[0].laws.limit)


def test_page_shows_the_data(report):
    page = Page(report)
    (study,) = report.studies
    columns = columns_of(study.configurations)
    assert page.rows == [{column.name: column.cell(c) for column in columns} for c in study.configurations]
    on_screen = {row["config"]: (int(row["parallelism"]), row["speedup"], row["efficiency"]) for row in page.rows}
    assert on_screen == PRINTED
    asked = study.recommendation
    behind = [line for lines in sections(study).values() for line in lines]
    words = (*why_lines(asked), *doubt_lines(asked), *alternatives(study), code_text(asked), *behind)
    for text in ("Use 4r×1e", *words, "Goal balanced", "2026-11-22 12:00 UTC"):
        assert " ".join(text.split()) in page.words
    # The speedup is drawn, and the text of the figure is part of the page; there are no losses to draw.
    assert page.elements.count("svg") == 1
    assert "N = env runners × envs per runner" in page.words


def test_page_is_self_contained_and_its_ids_are_unique(report):
    twice = replace(report, studies=report.studies * 2)
    page, text = Page(twice), render_page(twice)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert {"script", "link", "iframe", "object", "embed"}.isdisjoint(page.elements)
    links = [value for name, value in page.attributes if name in {"src", "href", "xlink:href"}]
    assert links
    assert all(link.startswith("#") for link in (*links, *re.findall(r"url\(([^)]*)\)", text)))
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert "study 2 of 2" in page.words


@pytest.mark.parametrize("runs", [[], [nan_row()], [run("2r1e", [1.0] * 5), run("4r1e", [0.6] * 5)], [run("1r1e", [1.0] * 5)]])
def test_page_reports_what_is_missing(runs):
    report = report_of(*runs)
    page = Page(report)
    missing = [line for study in report.studies for line in doubt_lines(study.recommendation)]
    assert all(line in page.words for line in missing or ["No run of this experiment could be read."])
    assert "nan" not in re.findall(r"\w+", page.words.lower())


def test_text_from_runs_is_escaped():
    runs = [replace(sampled("1r1e", [3.0, 2.2, 2.0, 2.1, 1.9]), name=HOSTILE, notes=(HOSTILE,)), run("2r1e", [1.0, 1.1, 0.9])]
    report = report_of(*runs, left_out=(LeftOut(HOSTILE, HOSTILE),), facts={HOSTILE: HOSTILE})
    report = replace(report, provenance={"Source": HOSTILE})
    terminal = printed(report, 1000, verbose=True)
    assert "\x1b" not in terminal
    shown = " ".join(HOSTILE.replace("\x1b", " ").split())
    assert " ".join(terminal.split()).count(shown) >= 5
    page = Page(report)
    assert {"script", "img"}.isdisjoint(page.elements)
    assert page.words.count(shown) >= 5
    assert json.loads(to_json(report))["left_out"] == [{"name": HOSTILE, "reason": HOSTILE}]
