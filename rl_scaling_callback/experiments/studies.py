"""Summarises the iterations of a run, and titles studies by what tells them apart, for folders and tables alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np

from rl_scaling_callback.analysis.returns import lasting
from rl_scaling_callback.analysis.runs import Iteration, Run
from rl_scaling_callback.core.attribution import RECORDED
from rl_scaling_callback.core.formulas import NAN, mean_of_known
from rl_scaling_callback.core.steady import SteadyRule, SteadyWindow

_FIRST_SAMPLES: Final = 50
"""Iterations of a run to keep for figures from its start, which includes warm-up."""

_LATER_SAMPLES: Final = 250
"""Iterations to keep of the rest, evenly spaced up to the last one."""

_MAX_FACTS: Final = 3
"""Titles with more facts than this name only those in which a study differs from the largest one."""

_MAX_TEXT: Final = 50

_Item = TypeVar("_Item")
_Key = TypeVar("_Key", bound=Hashable)


def summarise(iterations: Sequence[Iteration], rule: SteadyRule, *, learns_after: float = 0.0, **known: Any) -> Run:
    """Return the summary of a run.

    Args:
        iterations: its iterations in order.
        rule: the rule for warm-up and steady state.
        learns_after: env steps sampled before learning starts.
        known: further fields of `Run`, such as name, scale and notes.
    """
    window = SteadyWindow(rule, learns_after=learns_after)
    # If one iteration lacks parts, their sums are unknown.
    unknown = dict.fromkeys(RECORDED, NAN) if any(each.parts for each in iterations) else {}
    measured: list[Iteration] = []
    samples: list[Iteration] = []
    kept = {*range(_FIRST_SAMPLES), *np.linspace(_FIRST_SAMPLES, len(iterations) - 1, _LATER_SAMPLES).astype(int).tolist()}
    lowest = lasting([each.episode_return for each in iterations])
    for index, each in enumerate(iterations):
        parts = unknown if each.parts is None else dict(zip(RECORDED, each.parts, strict=True))
        # While a run tunes itself, some of its iterations have another number of threads than the last ones.
        seconds = NAN if abs(each.learner_threads - iterations[-1].learner_threads) > 0 else each.seconds
        if window.add(each.env_steps, seconds, parts, since_restore=each.since_restore):
            measured.append(each)
        if index in kept and each.env_steps >= 0 and each.seconds > 0:
            samples.append(each._replace(lasting_return=lowest[index]))
    return Run(
        steady=window.read(),
        cpu_utilisation=mean_of_known(each.cpu_utilisation for each in measured),
        ram_utilisation=max(_known(each.ram_utilisation for each in measured), default=NAN),
        vram_utilisation=max(_known(each.vram_utilisation for each in measured), default=NAN),
        exclusive=min(_known(each.exclusive for each in measured), default=NAN),
        others=mean_of_known(each.others for each in measured),
        samples=tuple(samples),
        **known,
    )


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if value == value]


def grouped(items: Iterable[_Item], key: Callable[[_Item], _Key]) -> dict[_Key, list[_Item]]:
    """Return items by their keys, in the order of the first of each."""
    groups: dict[_Key, list[_Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def titles(plain: Sequence[str], groups: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return a title for each study, and the names of the facts that tell studies apart.

    Args:
        plain: what each study is about. Studies that are about the same get those facts added that tell them apart.
        groups: the facts of each study, the largest study first.
    """
    found, telling = list(plain), dict[str, None]()
    for same in grouped(range(len(plain)), lambda index: plain[index]).values():
        facts = [flat(groups[index], ".") for index in same]
        names = _telling(facts)
        telling.update(dict.fromkeys(name.partition(".")[0] for name in names))
        for index, its in zip(same, facts, strict=True):
            is_brief = len(names) > _MAX_FACTS and its is not facts[0]
            shown = [name for name in names if its.get(name) is not None and not (is_brief and its[name] == facts[0].get(name))]
            if shown:
                known = ", ".join(f"{name}: {short(its[name], _MAX_TEXT) or 'none'}" for name in shown)
                found[index] = f"{plain[index]} ({known})"
    return found, [*telling]


def _telling(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the facts in which groups differ; if they are many, the fewest that tell groups apart."""
    texts = {name: [short(facts.get(name)) for facts in groups] for facts in groups for name in facts}
    differing = [name for name in texts if len({*texts[name]}) > 1]
    if len(differing) <= _MAX_FACTS:
        return differing
    differing.sort(key=lambda name: max(map(len, texts[name])))  # preferably those with short texts
    chosen: list[str] = []

    def told(*more: str) -> int:
        return len({*zip(*(texts[name] for name in (*chosen, *more)), strict=True)}) or 1

    while told(best := max(differing, key=told)) > told():
        chosen.append(best)
    return [name for name in texts if name in chosen]


def flat(values: Mapping[str, Any], mark: str, above: str = "") -> dict[str, Any]:
    """Return values with those of inner mappings under both names, joined by `mark`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, mark, f"{above}{name}{mark}") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


def short(value: object, longest: int = 120) -> str:
    """Return a value as text, of bounded length."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
