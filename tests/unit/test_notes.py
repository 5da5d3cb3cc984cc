"""Caveats and reasons as text: one of each kind."""

from typing import get_args

import pytest

from rl_scaling_callback.analysis.runs import LeftOut, Note, NoteKind, Reason
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.report.notes import left_out_text, notes_text

RATES = {"learner_sps": 1280.0, "busy": 0.8, "sampling_sps": 1365.3}
TRAINED = {"trained": 1.52, "error": 4.2, "probed": 1.6}
NOTES = [
    ("said", {"text": "{0} as is"}, "{0} as is"),
    ("failed", {"iterations": 4}, "ended with an error after 4 iterations"),
    ("failed", {"iterations": 1}, "ended with an error after 1 iteration"),
    ("config changed", {"first": 6}, "its config changed while it ran: only iterations from 6 on count"),
    ("damaged lines", {"count": 1}, "1 damaged line of its results is left out"),
    ("damaged lines", {"count": 2}, "2 damaged lines of its results are left out"),
    ("evaluation included", {}, "its iterations include evaluation, whose time is unknown without the callback"),
    (
        "slow iteration",
        {"seconds": 3602.0, "typical": 2.0},
        "one of its iterations took 3,602 s, while 2 s is typical: was the machine suspended or its clock changed?",
    ),
    ("drift", {"percent": 45.4}, "its sampling cost per env step changed by +45 % while it ran, and so did its efficiency"),
    ("not comparable", {}, "its callback found no comparable baseline: workload, hardware or steps differ"),
    (
        "learner limits",
        RATES,
        "the learner limits: the learner can process 1,280 steps/s (busy 80% of the time), the env runners can sample 1,365",
    ),
    (
        "sampling limits",
        RATES,
        "sampling limits: the learner can process 1,280 steps/s (busy 80% of the time), the env runners can sample 1,365",
    ),
    ("other trials", {}, "another trial ran on its node at the same time"),
    ("other programs", {"cores": 0.52}, "other programs, or ones started by its env, kept 0.5 cores busy"),
    ("disturbed runs", {"count": 1}, "1 more run left out because of interference from other programs"),
    ("disturbed runs", {"count": 2}, "2 more runs left out because of interference from other programs"),
    ("other steps", {"here": 2000, "baseline": 1000}, "2,000 env steps per iteration, 1,000 for the baseline: not comparable"),
    ("confirmed", TRAINED, "training iterations: 1.52× ± 4 % (probes: 1.60×)"),
    ("contradicted", TRAINED, "training iterations: 1.52× ± 4 % (probes: 1.60×); they differ by more than their errors"),
    (
        "evaluation excluded",
        {"seconds": 0.81, "speedup": 1.33},
        "evaluation adds 0.81 s per iteration on average, which figures exclude: with it 1.33×",
    ),
    ("from file", {"time": "2026-11-22"}, "from the experiment's baseline file, measured 2026-11-22"),
    ("from file", {"time": ""}, "from the experiment's baseline file"),
    ("from trials", {}, "as recorded by the trials"),
    ("from probes", {}, "the mean of those probed in the trials, each of which is compared with its own"),
]

RAN = {"iterations": 2, "warmup": 2, "learns_after": 1e6, "problem": "", "failed": False}
REASONS = [
    ("said", {"text": "{0} as is"}, "{0} as is"),
    (
        "never started",
        {},
        "there is no result.json or progress.csv in its folder: it has not started, or Tune's loggers are disabled",
    ),
    ("no iteration", {}, "no iteration was reported: it has not completed one yet, or was stopped before"),
    ("failed at start", {}, "it ended with an error before its first iteration was done; see error.txt in its folder"),
    ("unreadable results", {"lines": 2}, "none of the 2 lines of its results can be read"),
    ("offline", {}, "it learns from recorded data (offline): it samples no env steps, so there is no throughput"),
    ("no scale", {"error": "x is None"}, "its config has no valid scale: x is None. Is it an RLlib trial?"),
    ("too short", RAN, "2 iterations; warm-up takes 2, so at least 3 are needed"),
    (
        "too short",
        {**RAN, "iterations": 1, "failed": True},
        "1 iteration; warm-up takes 2, so at least 3 are needed; it ended with an error",
    ),
    ("learning not started", RAN, "2 iterations; learning starts after 1,000,000 env steps, and warm-up takes 2 iterations more"),
    ("unmeasurable", RAN, "2 iterations, none of which can be measured: no env steps were sampled after warm-up"),
    ("unmeasurable", {**RAN, "problem": "{0}"}, "2 iterations, none of which can be measured: {0}"),
    (
        "env runners missing",
        {"healthy": 3.0, "scale": Scale(4, 1)},
        "only 3 of its 4 env runners were healthy in most iterations: its throughput is not that of 4r×1e. See Ray's logs for the "
        "cause",
    ),
    ("failed in sweep", {}, "it crashed, hung or lacked env runners while the sweep ran"),
    ("not probed", {"error": "no licence {0}"}, "no licence {0}"),
    ("row", {"error": "sps is '0'"}, "sps is '0'; the row is left out"),
    ("baseline file", {"error": "it is not valid JSON"}, "this baseline file is unusable: it is not valid JSON"),
]


@pytest.mark.parametrize(("kind", "figures", "text"), NOTES)
def test_notes(kind, figures, text):
    assert notes_text([Note(kind, figures)]) == text


@pytest.mark.parametrize(("reason", "figures", "text"), REASONS)
def test_reasons(reason, figures, text):
    assert left_out_text(LeftOut("trial", reason, figures)) == text


def test_every_kind_has_a_text():
    assert {kind for kind, *_ in NOTES} == {*get_args(NoteKind)}
    assert {reason for reason, *_ in REASONS} == {*get_args(Reason)}


def test_a_note_that_several_runs_share_is_written_once():
    failed = Note("failed", {"iterations": 4})
    assert notes_text([failed, Note("other trials"), failed]).count("ended with an error") == 1
    assert notes_text([]) == ""
