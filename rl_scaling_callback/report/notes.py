"""Turns caveats about runs, and the reasons for which something was left out, into text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from rl_scaling_callback.analysis.runs import LeftOut, Note, NoteKind, Reason
from rl_scaling_callback.report.text import counted

Text = str | Callable[[Mapping[str, Any]], str]
"""A template for `str.format`, or a function of the figures."""


def notes_text(notes: Iterable[Note]) -> str:
    """Return caveats as text, each once, separated by semicolons; "" for none."""
    return "; ".join(dict.fromkeys(_written(_NOTES[note.kind], note.figures) for note in notes))


def left_out_text(left_out: LeftOut) -> str:
    """Return why something was left out, and a remedy if there is one."""
    return _written(_REASONS[left_out.reason], left_out.figures)


def _written(text: Text, figures: Mapping[str, Any]) -> str:
    return text.format(**figures) if isinstance(text, str) else text(figures)


def _not_steady(text: Callable[[Mapping[str, Any]], str]) -> Callable[[Mapping[str, Any]], str]:
    """Return the text of a trial that ran for some iterations, but not long enough."""
    return lambda found: f"{counted(found['iterations'], 'iteration')}{text(found)}{'; it ended with an error' * found['failed']}"


_RATES: Final = (
    "the learner can process {learner_sps:,.0f} steps/s (busy {busy:.0%} of the time), "
    "the env runners can sample {sampling_sps:,.0f}"
)

_NOTES: Final[Mapping[NoteKind, Text]] = {
    "said": "{text}",
    "failed": lambda found: f"ended with an error after {counted(found['iterations'], 'iteration')}",
    "config changed": "its config changed while it ran: only iterations from {first} on count",
    "damaged lines": lambda found: (
        f"{counted(found['count'], 'damaged line')} of its results {'is' if found['count'] == 1 else 'are'} left out"
    ),
    "evaluation included": "its iterations include evaluation, whose time is unknown without the callback",
    "slow iteration": "one of its iterations took {seconds:,.0f} s, while {typical:,.3g} s is typical: was the machine suspended "
    "or its clock changed?",
    "drift": "its sampling cost per env step changed by {percent:+.0f} % while it ran, and so did its efficiency",
    "not comparable": "its callback found no comparable baseline: workload, hardware or steps differ",
    "learner limits": f"the learner limits: {_RATES}",
    "sampling limits": f"sampling limits: {_RATES}",
    "other trials": "another trial ran on its node at the same time",
    "other programs": "other programs, or ones started by its env, kept {cores:.1f} cores busy",
    "disturbed runs": lambda found: f"{counted(found['count'], 'more run')} left out because of interference from other programs",
    "other steps": "{here:,.0f} env steps per iteration, {baseline:,.0f} for the baseline: not comparable",
    "confirmed": "training iterations: {trained:.2f}× ± {error:.0f} % (probes: {probed:.2f}×)",
    "contradicted": "training iterations: {trained:.2f}× ± {error:.0f} % (probes: {probed:.2f}×); they differ by more than their "
    "errors",
    "evaluation excluded": "evaluation adds {seconds:.2g} s per iteration on average, which figures exclude: with it "
    "{speedup:.2f}×",
    "from file": lambda found: f"from the experiment's baseline file{f', measured {time}' if (time := found['time']) else ''}",
    "from trials": "as recorded by the trials",
    "from probes": "the mean of those probed in the trials, each of which is compared with its own",
}

_REASONS: Final[Mapping[Reason, Text]] = {
    "said": "{text}",
    "never started": "there is no result.json or progress.csv in its folder: it has not started, or Tune's loggers are disabled",
    "no iteration": "no iteration was reported: it has not completed one yet, or was stopped before",
    "failed at start": "it ended with an error before its first iteration was done; see error.txt in its folder",
    "unreadable results": "none of the {lines} lines of its results can be read",
    "offline": "it learns from recorded data (offline): it samples no env steps, so there is no throughput",
    "no scale": "its config has no valid scale: {error}. Is it an RLlib trial?",
    "too short": _not_steady(lambda found: f"; warm-up takes {found['warmup']}, so at least {found['warmup'] + 1} are needed"),
    "learning not started": _not_steady(
        lambda found: (
            f"; learning starts after {found['learns_after']:,.0f} env steps, and warm-up takes {found['warmup']} iterations more"
        )
    ),
    "unmeasurable": _not_steady(
        lambda found: f", none of which can be measured: {found['problem'] or 'no env steps were sampled after warm-up'}"
    ),
    "env runners missing": "only {healthy:.0f} of its {scale.num_env_runners} env runners were healthy in most iterations: its "
    "throughput is not that of {scale}. See Ray's logs for the cause",
    "failed in sweep": "it crashed, hung or lacked env runners while the sweep ran",
    "not probed": "{error}",
    "row": "{error}; the row is left out",
    "baseline file": "this baseline file is unusable: {error}",
}
