"""The page as rendered by a browser."""

import os
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from rl_scaling_callback.analysis.runs import LeftOut
from rl_scaling_callback.report import render_page, write_page
from rl_scaling_callback.report.columns import columns_of
from rl_scaling_callback.report.decisions import code_text, doubt_lines, why_lines
from rl_scaling_callback.report.sections import alternatives, sections
from tests.builders import PRINTED, nan_row, report_of, run, sampled, users_ten

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome is installed")
HOSTILE = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"


def opened(url, profile, *options):
    """Return a page's document as rendered by the browser."""
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-sync",
    ]
    command += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={profile}",
        *options,
        "--dump-dom",
        url,
    ]
    # A separate process group, so that all processes of the browser can be killed.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True) as process:
        try:
            return process.communicate(timeout=60)[0]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


class Document(HTMLParser):
    """Elements by tag, and the table of configurations."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.rows, self.cell, self.text = [], [], [], None, []
        self.feed(text)

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

    @property
    def words(self):
        return " ".join("".join(self.text).split())


@pytest.fixture(scope="module")
def user():
    return report_of(*users_ten())


@browser
def test_page_shows_the_data(user, tmp_path):
    document = Document(opened(write_page(user, tmp_path / "page.html").as_uri(), tmp_path / "profile"))
    (study,) = user.studies
    columns = columns_of(study.configurations)
    assert document.rows == [{column.name: column.cell(c) for column in columns} for c in study.configurations]
    on_screen = {row["config"]: (int(row["parallelism"]), row["speedup"], row["efficiency"]) for row in document.rows}
    assert on_screen == PRINTED
    asked = study.recommendation
    words = (*why_lines(asked), *doubt_lines(asked), *alternatives(study), code_text(asked))
    for text in ("Use 4r×1e", *words, "Goal balanced", "2026-11-22 12:00 UTC"):
        assert " ".join(text.split()) in document.words
    # The speedup is drawn, and the text of the figure is part of the page.
    assert document.elements.count("svg") == 1
    assert "N = env runners × envs per runner" in document.words
    assert all(line in document.words for lines in sections(study).values() for line in lines)


@browser
def test_text_from_runs_is_escaped_on_the_page(tmp_path):
    runs = [replace(sampled("1r1e", [3.0, 2.2, 2.0, 2.1, 1.9]), name=HOSTILE, notes=(HOSTILE,)), run("2r1e", [1.0, 1.1, 0.9])]
    report = report_of(*runs, left_out=(LeftOut(HOSTILE, HOSTILE),), facts={HOSTILE: HOSTILE})
    report = replace(report, provenance={"Source": HOSTILE})
    document = Document(opened(write_page(report, tmp_path / "page.html").as_uri(), tmp_path / "profile"))
    assert {"script", "img"}.isdisjoint(document.elements)
    assert document.words.count(HOSTILE) >= 5
    assert "Scaling: PPO on HalfCheetah-v5" in document.words


def test_page_is_self_contained(user):
    document = Document(render_page(user))
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in document.attributes
    assert {"script", "link", "iframe", "object", "embed"}.isdisjoint(document.elements)
    links = [value for name, value in document.attributes if name in {"src", "href", "xlink:href"}]
    assert links
    assert all(link.startswith("#") for link in links)
    assert all(link.startswith("#") for link in re.findall(r"url\(([^)]*)\)", render_page(user)))


@pytest.mark.parametrize("runs", [[], [nan_row()], [run("2r1e", [1.0] * 5), run("4r1e", [0.6] * 5)], [run("1r1e", [1.0] * 5)]])
def test_page_reports_what_is_missing(runs):
    report = report_of(*runs)
    document = Document(render_page(report))
    missing = [line for study in report.studies for line in doubt_lines(study.recommendation)]
    assert all(line in document.words for line in missing or ["No run of this experiment could be read."])
    assert "nan" not in re.findall(r"\w+", document.words.lower())


def test_ids_are_unique_on_a_page_with_several_studies(user):
    page = render_page(replace(user, studies=user.studies * 2))
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert "study 2 of 2" in page
