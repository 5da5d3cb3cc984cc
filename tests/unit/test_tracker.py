import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from rl_scaling_callback.baseline.source import GivenBaseline
from rl_scaling_callback.baseline.store import BaselineStore
from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DISTURBED
from rl_scaling_callback.core.trial import Workload
from tests.builders import SETTLED, SINGLE, UNSETTLED, WORKLOAD, Warnings, compared, reference

TWO = Scale(2, 1)
DISTURBED_BY_HALF = replace(SETTLED, sps=500.0, parts={DISTURBED: 2.5})


def test_published_once_steady_and_found_by_a_waiting_trial(store):
    first, late = reference(store), reference(store, TWO, owner="late")
    first.update(UNSETTLED)
    late.update(UNSETTLED)
    assert (first.status.is_baseline, late.status.is_baseline) == (True, False)
    assert all(math.isnan(each) for trial in (first, late) for each in compared(trial))
    first.update(SETTLED)
    late.update(UNSETTLED)
    assert compared(first) == compared(late) == (1000.0, 1.0)
    assert late.status[:3] == ("trial", False, 2.0)
    (file,) = Path(store.directory).iterdir()
    published = file.read_bytes()
    late._store = Mock()
    late.update(SETTLED)
    late._store.load.assert_not_called()  # It is known.
    first.update(replace(SETTLED, sps=1200.0, iterations=50, env_steps=50_000.0, seconds=50.0))
    reference(store, Scale(1, 4), owner="one runner").update(SETTLED)
    assert [path.read_bytes() for path in Path(store.directory).iterdir()] == [published]
    restored = reference(store)
    restored.update(UNSETTLED)
    assert (restored.status.is_baseline, *compared(restored)) == (True, 1000.0, 1.0)


def test_larger_reference_is_taken_to_scale_perfectly(store):
    trial = reference(store, Scale(4, 2), reference=Scale(4, 2))
    trial.update(replace(SETTLED, parts={"sample": 5.0}))
    assert compared(trial) == (1000.0 / 8, 1.0)
    assert trial.reference_for(1000.0, TimeBreakdown.of_window({})).breakdown.sample == 8 * 5.0 / 5000.0
    assert GivenBaseline(5512.0, Scale(4, 1)).reference_for(1.0, TimeBreakdown.of_window({}))[:2] == (1378.0, 1.0)


def test_disturbed_baseline_is_marked_and_warned_about_where_it_is_used(store):
    for owner, scale in (("a", SINGLE), ("b", TWO)):
        warn = Warnings()
        trial = reference(store, scale, owner=owner, warn=warn)
        trial.update(DISTURBED_BY_HALF)
        assert compared(trial) == (500.0, 1.0)
        assert "trial 'a'" in warn["disturbed"]
        assert "50 % of the time" in warn["disturbed"]
        trial.update(SETTLED)  # published once
    assert store.load(WORKLOAD, SINGLE).steady.disturbed == 0.5


def test_undisturbed_baseline_replaces_a_disturbed_one_but_not_the_reverse(store, warn):
    reference(store, owner="a").update(DISTURBED_BY_HALF)
    quiet = reference(store, owner="b")
    quiet.update(UNSETTLED)
    assert (quiet.status.is_baseline, *compared(quiet)) == (False, 500.0, 1.0)
    quiet.update(SETTLED)
    assert (quiet.status.is_baseline, *compared(quiet)) == (True, 1000.0, 1.0)
    disturbed = reference(store, owner="c", warn=warn)
    disturbed.update(DISTURBED_BY_HALF)
    assert (disturbed.status.is_baseline, *compared(disturbed)) == (False, 1000.0, 1.0)
    assert store.load(WORKLOAD, SINGLE).owner == "b"
    assert "disturbed" not in warn


@pytest.mark.parametrize("load_s", [0.0, 10.0])
def test_the_first_of_two_references_wins_since_the_other_looks_again_before_publishing(store, load_s):
    now = [0.0]

    class Slow(BaselineStore):
        def load(self, *args):
            now[0] += load_s
            return super().load(*args)

    second = reference(Slow(store._fs, store.directory), owner="b", clock=lambda: now[0])
    second.update(UNSETTLED)
    first = reference(store, owner="a")
    first.update(SETTLED)
    now[0] += 1.0  # If slow, too early to look again, but it has something to publish.
    second.update(replace(SETTLED, sps=900.0))
    assert (first.status.is_baseline, second.status.is_baseline) == (True, False)
    assert compared(second) == (1000.0, 1.0)
    assert store.load(WORKLOAD, SINGLE).owner == "a"


def test_other_workload_is_never_compared_and_warned_about_once(store, warn):
    reference(store, workload=Workload({"env": "Walker"}), owner="far").update(SETTLED)
    reference(store, workload=Workload({"env": "Ant-v5", "epochs": 4, "a\nb": "\n"}), owner="ant\n").update(SETTLED)
    trial = reference(store, TWO, warn=warn)
    for _ in range(3):
        trial.update(SETTLED)
    assert compared(trial) == pytest.approx((math.nan, 0.0), nan_ok=True)
    trial.end()
    assert list(warn) == ["mismatch"]
    assert 'env: "HalfCheetah-v5" here, "Ant-v5" there' in warn["mismatch"]
    assert "\n" not in warn["mismatch"]
    reference(store).update(SETTLED)
    trial.update(SETTLED)
    assert compared(trial) == (1000.0, 1.0)


@pytest.mark.parametrize(
    ("scale", "options", "steps"),
    [
        (TWO, {}, 1000.0),
        (SINGLE, {}, math.nan),  # it is its own baseline
        (TWO, {"steps_vary": True}, math.nan),
        (TWO, {"workload": Workload({"name": "mine"}, is_named=True)}, math.nan),
    ],
)
def test_iterations_must_have_equally_many_steps_unless_timed_or_of_a_named_workload(store, scale, options, steps):
    reference(store, workload=options.get("workload", WORKLOAD)).update(SETTLED)
    trial = reference(store, scale, **options)
    trial.update(SETTLED)
    assert trial.status.steps_per_iteration == pytest.approx(steps, nan_ok=True)


def test_damaged_file_is_set_aside_with_one_warning(store, warn):
    path = Path(store.path(WORKLOAD, SINGLE))
    path.write_text("{")
    trial = reference(store, TWO, warn=warn)
    trial.update(SETTLED)
    trial.update(SETTLED)
    assert math.isnan(compared(trial)[0])
    assert str(path) in warn["file"]
    assert len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("scale", "sps", "warned"),
    [
        (SINGLE, 250.0, True),
        (SINGLE, 850.0, False),
        (SINGLE, 1200.0, False),
        (SINGLE, 1500.0, True),
        (Scale(4, 1), 4000.0, False),  # expected to differ
    ],
)
def test_later_reference_run_warns_if_it_disagrees_with_its_baseline(store, scale, sps, warned, warn):
    reference(store, owner="first").update(SETTLED)
    later = reference(store, scale, owner="later", warn=warn)
    for steady in (replace(UNSETTLED, sps=1.0), replace(SETTLED, sps=sps)):
        later.update(steady)
    assert ("disagree" in warn) == warned
    if warned:
        assert "'first'" in warn["disagree"]
        assert store.path(WORKLOAD, SINGLE) in warn["disagree"]


@pytest.mark.parametrize("scale", [SINGLE, TWO])
@pytest.mark.parametrize("is_steady", [True, False])
def test_trial_without_a_baseline_warns_once_steady_or_at_its_end(store, scale, is_steady, warn):
    trial = reference(store, scale, warn=warn)
    trial.update(UNSETTLED)
    assert not warn
    if is_steady:
        trial.update(SETTLED)
    trial.end()
    assert list(warn) == ["missing"] * (not (is_steady and scale == SINGLE))
    assert "1r×1e" in warn.get("missing", "1r×1e")
