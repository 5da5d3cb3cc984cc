import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from rl_scaling_callback.baseline.store import BaselineStore
from rl_scaling_callback.baseline.tracker import GivenBaseline
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DISTURBED
from rl_scaling_callback.core.workload import Workload
from tests.builders import SETTLED, SINGLE, UNSETTLED, WORKLOAD, Warnings, reference

TWO = Scale(2, 1)
DISTURBED_BY_HALF = replace(SETTLED, sps=500.0, parts={DISTURBED: 2.5})


def test_published_once_steady_and_found_by_a_waiting_trial(store):
    first, late = reference(store), reference(store, TWO, owner="late")
    first.update(UNSETTLED)
    late.update(UNSETTLED)
    assert (first.is_baseline, late.is_baseline) == (1, 0)
    assert math.isnan(first.compare_with(UNSETTLED, 1000)[0])
    assert math.isnan(late.compare_with(UNSETTLED, 1000)[1])
    first.update(SETTLED)
    late.update(UNSETTLED)
    late._store = Mock()
    late.update(SETTLED)
    late._store.load.assert_not_called()  # It is known.
    assert first.compare_with(SETTLED, 1000)[:2] == late.compare_with(UNSETTLED, 1000)[:2] == (1000.0, 1.0)


def test_published_once(store, warn):
    trial = reference(store, warn=warn)
    trial.update(replace(SETTLED, converged=False, error=12.0))
    assert "±12.0 %" in warn["precision"]
    (file,) = Path(store.directory).iterdir()
    published = file.read_bytes()
    trial.update(replace(SETTLED, sps=1200.0, iterations=50, env_steps=50_000.0, seconds=50.0))
    reference(store, Scale(1, 4), owner="one runner").update(SETTLED)
    assert [path.read_bytes() for path in Path(store.directory).iterdir()] == [published]
    assert trial.compare_with(SETTLED, 1000)[0] == 1000.0


def test_disturbed_baseline_is_marked_and_warned_about_where_it_is_used(store):
    for owner, scale in (("a", SINGLE), ("b", TWO)):
        warn = Warnings()
        trial = reference(store, scale, owner=owner, warn=warn)
        trial.update(DISTURBED_BY_HALF)
        assert trial.compare_with(SETTLED, 1000)[:2] == (500.0, 1.0)
        assert "trial 'a'" in warn["disturbed"]
        assert "50 % of the time" in warn["disturbed"]
        trial.update(SETTLED)  # published once
    assert store.load(WORKLOAD, SINGLE).steady.disturbed == 0.5


def test_undisturbed_baseline_replaces_a_disturbed_one_but_not_the_reverse(store, warn):
    reference(store, owner="a").update(DISTURBED_BY_HALF)
    quiet = reference(store, owner="b")
    quiet.update(UNSETTLED)
    assert (quiet.is_baseline, quiet.compare_with(SETTLED, 1000)[0]) == (0, 500.0)
    quiet.update(SETTLED)
    assert (quiet.is_baseline, quiet.compare_with(SETTLED, 1000)[0]) == (1, 1000.0)
    disturbed = reference(store, owner="c", warn=warn)
    disturbed.update(DISTURBED_BY_HALF)
    assert (disturbed.is_baseline, disturbed.compare_with(SETTLED, 1000)[0]) == (0, 1000.0)
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
    assert (first.is_baseline, second.is_baseline) == (1, 0)
    assert second.compare_with(SETTLED, 1000)[0] == 1000.0
    assert store.load(WORKLOAD, SINGLE).owner == "a"


def test_restored_reference_is_still_the_owner(store):
    reference(store, owner="a").update(SETTLED)
    restored = reference(store, owner="a")
    restored.update(UNSETTLED)
    assert (restored.is_baseline, restored.compare_with(UNSETTLED, 1000)[0]) == (1, 1000.0)


def test_other_workload_is_never_compared_and_warned_about_once(store, warn):
    reference(store, workload=Workload({"env": "Ant-v5", "epochs": 4, "a\nb": "\n"}), owner="ant\n").update(SETTLED)
    trial = reference(store, TWO, warn=warn)
    for _ in range(3):
        trial.update(SETTLED)
    assert trial.compare_with(SETTLED, 1000)[:2] == pytest.approx((math.nan, 0.0), nan_ok=True)
    assert list(warn) == ["mismatch"]
    assert 'env: "HalfCheetah-v5" here, "Ant-v5" there' in warn["mismatch"]
    assert "\n" not in warn["mismatch"]
    reference(store).update(SETTLED)
    trial.update(SETTLED)
    assert trial.compare_with(SETTLED, 1000)[:2] == (1000.0, 1.0)


NAMED = Workload({"name": "mine"}, is_named=True)


@pytest.mark.parametrize(
    ("options", "env_steps", "comparable"),
    [
        ({}, 2000, 0.0),
        ({}, 1002, 1.0),  # RLlib rounds fragments up: 4,104 steps count as 4,096.
        ({"steps_vary": True}, 2000, 1.0),
        ({"workload": NAMED}, 2000, 1.0),
    ],
)
def test_iterations_must_have_equally_many_steps_unless_timed_or_of_a_named_workload(store, options, env_steps, comparable, warn):
    reference(store, workload=options.get("workload", WORKLOAD)).update(SETTLED)
    trial = reference(store, TWO, warn=warn, **options)
    steady = replace(SETTLED, env_steps=5.0 * env_steps)
    trial.update(steady)
    sps = 1000.0 if comparable else math.nan
    assert trial.compare_with(steady, env_steps)[:2] == pytest.approx((sps, comparable), nan_ok=True)
    assert ("2000 env steps" in warn.get("steps", "")) == (not comparable)


def test_damaged_file_is_set_aside_with_one_warning(store, warn):
    path = Path(store.path(WORKLOAD, SINGLE))
    path.write_text("{")
    trial = reference(store, TWO, warn=warn)
    trial.update(SETTLED)
    trial.update(SETTLED)
    assert math.isnan(trial.compare_with(SETTLED, 1000)[0])
    assert str(path) in warn["file"]
    assert len(list(path.parent.iterdir())) == 1


def test_given_baseline():
    for number, reference_scale in ((1378.0, SINGLE), (5512.0, Scale(4, 1))):
        given = GivenBaseline(number, reference_scale, TWO, Warnings())
        assert given.compare_with(SETTLED, 1)[:2] == (1378.0, 1.0)


@pytest.mark.parametrize(
    ("scale", "sps", "error", "warned"),
    [
        (SINGLE, 250.0, 2.0, True),
        (SINGLE, 850.0, 2.0, False),
        (SINGLE, 1200.0, 2.0, False),
        (SINGLE, 1500.0, 2.0, True),
        (SINGLE, 600.0, 80.0, False),  # its wide interval may explain it
        (Scale(4, 1), 4000.0, 2.0, False),  # expected to differ
    ],
)
def test_later_reference_run_warns_if_it_disagrees_with_its_baseline(store, scale, sps, error, warned):
    reference(store, owner="first").update(SETTLED)
    of_file, of_number = Warnings(), Warnings()
    later = reference(store, scale, owner="later", warn=of_file)
    given = GivenBaseline(1000.0, SINGLE, scale, of_number)
    for steady in (replace(UNSETTLED, sps=1.0), replace(SETTLED, sps=sps, error=error)):
        later.update(steady)
        given.update(steady)
    assert ("disagree" in of_file, "disagree" in of_number) == (warned, warned)
    if warned:
        assert "'first'" in of_file["disagree"]
        assert store.path(WORKLOAD, SINGLE) in of_file["disagree"]


@pytest.mark.parametrize("scale", [SINGLE, TWO])
@pytest.mark.parametrize("is_steady", [True, False])
def test_trial_without_a_baseline_warns_once_steady_or_at_its_end(store, scale, is_steady, warn):
    trial = reference(store, scale, warn=warn)
    trial.update(UNSETTLED)
    assert not warn
    if is_steady:
        trial.update(SETTLED)
    trial.end()
    if is_steady and scale == SINGLE:
        assert not warn
        return
    assert list(warn) == ["missing"]
    assert "1r×1e" in warn["missing"]
    assert "7 to 10 iterations" in warn["missing"]


def test_without_a_store(warn):
    trial = reference(None, warn=warn)
    trial.update(SETTLED)
    assert trial.is_baseline == 0
    assert math.isnan(trial.compare_with(SETTLED, 1000)[0])
    trial.end()
    assert not warn
