"""What tells the runs and studies of an experiment apart, and titles that say so."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from rl_scaling_callback.experiments.logs import flat

_MAX_FACTS: Final = 3
"""Titles with more facts than this name only those in which a study differs from the largest one."""

_MAX_TEXT: Final = 50

_Item = TypeVar("_Item")
_Key = TypeVar("_Key", bound=Hashable)


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
    for title in dict.fromkeys(plain):
        same = {index: flat(groups[index], ".") for index, its in enumerate(plain) if its == title}
        names = _telling([*same.values()])
        telling.update(dict.fromkeys(name.partition(".")[0] for name in names))
        largest = next(iter(same.values()))
        for index, facts in same.items():
            is_brief = len(names) > _MAX_FACTS and facts is not largest
            shown = [name for name in names if not (is_brief and facts.get(name) == largest.get(name))]
            known = [f"{name}: {short(facts[name], _MAX_TEXT) or 'none'}" for name in shown if facts.get(name) is not None]
            found[index] = f"{title} ({', '.join(known)})" if known else title
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


def short(value: object, longest: int = 120) -> str:
    """Return a value as text, of bounded length."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
