import math
from dataclasses import replace
from pathlib import Path

import pytest

from rl_scaling_callback.baseline.store import BaselineStore
from rl_scaling_callback.baseline.tracker import GivenBaseline
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DISTURBED
from rl_scaling_callback.core.workload import Workload
from tests.builders import SETTLED, SINGLE, UNSETTLED, WORKLOAD, Warnings, reference


def test_published_once_steady_and_found_by_a_waiting_trial(store):
    first, late = reference(store), reference(store, Scale(2, 1), owner="late")
    first.update(UNSETTLED)
    late.update(UNSETTLED)
    assert first.is_baseline == 1
    assert math.isnan(first.compare_with(UNSETTLED, 1000)[0])
    assert math.isnan(late.compare_with(UNSETTLED, 1000)[1])
    first.update(SETTLED)
    late.update(UNSETTLED)
    assert first.compare_with(SETTLED, 1000)[:2] == (1000.0, 1.0)
    assert late.compare_with(UNSETTLED, 1000)[:2] == (1000.0, 1.0)
    assert late.is_baseline == 0


def test_published_once(store):
    warn = Warnings()
    trial = reference(store, warn=warn)
    trial.update(replace(SETTLED, converged=False, error=12.0))
    assert "±12.0 %" in warn["precision"]
    (file,) = Path(store.directory).iterdir()
    published = file.read_bytes()
    trial.update(replace(SETTLED, sps=1200.0, iterations=50, env_steps=50_000.0, seconds=50.0))
    reference(store, Scale(1, 4), owner="one runner").update(SETTLED)
    assert [path.read_bytes() for path in Path(store.directory).iterdir()] == [published]
    assert trial.compare_with(SETTLED, 1000)[0] == 1000.0


DISTURBED_BY_HALF = replace(SETTLED, sps=500.0, parts={DISTURBED: 2.5})


def test_disturbed_baseline_is_marked_and_warned_about_where_it_is_used(store):
    for owner, scale in (("a", SINGLE), ("b", Scale(2, 1))):
        warn = Warnings()
        trial = reference(store, scale, owner=owner, warn=warn)
        trial.update(DISTURBED_BY_HALF)
        assert trial.compare_with(SETTLED, 1000)[:2] == (500.0, 1.0)
        assert "trial 'a'" in warn["disturbed"]
        assert "50 % of the time" in warn["disturbed"]
        trial.update(SETTLED)  # published once
    assert store.load(WORKLOAD, SINGLE).steady.disturbed == 0.5


def test_undisturbed_baseline_replaces_a_disturbed_one_but_not_the_reverse(store):
    reference(store, owner="a").update(DISTURBED_BY_HALF)
    quiet, warn = reference(store, owner="b"), Warnings()
    quiet.update(UNSETTLED)
    assert (quiet.is_baseline, quiet.compare_with(SETTLED, 1000)[0]) == (0, 500.0)
    quiet.update(SETTLED)
    assert (quiet.is_baseline, quiet.compare_with(SETTLED, 1000)[0]) == (1, 1000.0)
    disturbed = reference(store, owner="c", warn=warn)
    disturbed.update(DISTURBED_BY_HALF)
    assert (disturbed.is_baseline, disturbed.compare_with(SETTLED, 1000)[0]) == (0, 1000.0)
    assert store.load(WORKLOAD, SINGLE).owner == "b"
    assert "disturbed" not in warn


def test_the_first_of_two_racing_references_wins(store):
    first, second = reference(store, owner="a"), reference(store, owner="b")
    first.update(UNSETTLED)
    second.update(UNSETTLED)
    first.update(SETTLED)
    second.update(replace(SETTLED, sps=900.0))
    assert (first.is_baseline, second.is_baseline) == (1, 0)
    assert second.compare_with(SETTLED, 1000)[0] == 1000.0


def test_reference_looks_again_before_publishing_to_slow_storage(store):
    now = [0.0]

    class Slow(BaselineStore):
        def load(self, *args):
            now[0] += 10.0
            return super().load(*args)

    second = reference(Slow(store._fs, store.directory), owner="b", clock=lambda: now[0])
    second.update(UNSETTLED)
    reference(store, owner="a").update(SETTLED)
    now[0] += 1.0  # too early to look again, but it has something to publish
    second.update(replace(SETTLED, sps=900.0))
    assert second.is_baseline == 0
    assert second.compare_with(SETTLED, 1000)[0] == 1000.0
    assert store.load(WORKLOAD, SINGLE).owner == "a"


def test_restored_reference_is_still_the_owner(store):
    reference(store, owner="a").update(SETTLED)
    restored = reference(store, owner="a")
    restored.update(UNSETTLED)
    assert restored.is_baseline == 1
    assert restored.compare_with(UNSETTLED, 1000)[0] == 1000.0


def test_known_baseline_is_not_loaded_again(store):
    reference(store).update(SETTLED)
    trial = reference(store, Scale(2, 1), owner="b")
    trial.update(UNSETTLED)
    trial._store = None  # any access would fail
    trial.update(SETTLED)
    assert trial.compare_with(SETTLED, 1000)[:2] == (1000.0, 1.0)


def test_slow_storage_is_accessed_less_often(store):
    now, asked = [0.0], []

    class Slow(BaselineStore):
        def load(self, *args):
            asked.append(now[0])
            now[0] += 1.0
            return super().load(*args)

    trial = reference(Slow(store._fs, store.directory), Scale(2, 1), clock=lambda: now[0])
    for _ in range(1000):
        trial.update(UNSETTLED)
        now[0] += 1.0
    assert 15 <= len(asked) <= 25


def test_other_workload_is_never_compared_and_warned_about_once(store):
    reference(store, workload=Workload({"env": "Ant-v5", "epochs": 4, "a\nb": "\n"}), owner="ant\n").update(SETTLED)
    warn = Warnings()
    trial = reference(store, Scale(2, 1), warn=warn)
    for _ in range(3):
        trial.update(SETTLED)
    assert math.isnan(trial.compare_with(SETTLED, 1000)[0])
    assert trial.compare_with(SETTLED, 1000)[1] == 0.0
    assert list(warn) == ["mismatch"]
    assert 'env: "HalfCheetah-v5" here, "Ant-v5" there' in warn["mismatch"]
    assert "\n" not in warn["mismatch"]
    reference(store).update(SETTLED)
    trial.update(SETTLED)
    assert trial.compare_with(SETTLED, 1000)[:2] == (1000.0, 1.0)


def test_different_steps_per_iteration_are_not_comparable(store):
    reference(store).update(SETTLED)
    warn = Warnings()
    trial = reference(store, Scale(2, 1), warn=warn)
    twice = replace(SETTLED, env_steps=10_000.0)
    trial.update(twice)
    assert math.isnan(trial.compare_with(twice, 2000)[0])
    assert trial.compare_with(twice, 2000)[1] == 0.0
    assert "2000 env steps" in warn["steps"]
    # RLlib rounds fragments up: 4,104 steps count as 4,096.
    assert trial.compare_with(replace(SETTLED, env_steps=5010.0), 1002)[:2] == (1000.0, 1.0)


@pytest.mark.parametrize("options", [{"steps_vary": True}, {"workload": Workload({"name": "mine"}, is_named=True)}])
def test_steps_may_differ_for_timed_iterations_and_named_workloads(store, options):
    workload = options.get("workload", WORKLOAD)
    reference(store, workload=workload).update(SETTLED)
    trial = reference(store, Scale(2, 1), **options)
    trial.update(SETTLED)
    assert trial.compare_with(replace(SETTLED, env_steps=10_000.0), 2000)[:2] == (1000.0, 1.0)


def test_damaged_file_is_set_aside_with_one_warning(store):
    path = Path(store.path(WORKLOAD, SINGLE))
    path.write_text("{")
    warn = Warnings()
    trial = reference(store, Scale(2, 1), warn=warn)
    trial.update(SETTLED)
    trial.update(SETTLED)
    assert math.isnan(trial.compare_with(SETTLED, 1000)[0])
    assert str(path) in warn["file"]
    assert len(list(path.parent.iterdir())) == 1


def test_steady_trial_without_a_baseline_warns(store):
    warn = Warnings()
    trial = reference(store, Scale(2, 1), warn=warn)
    trial.update(UNSETTLED)
    assert not warn
    trial.update(SETTLED)
    assert "1r×1e" in warn["missing"]


def test_given_baseline():
    for number, reference_scale in ((1378.0, SINGLE), (5512.0, Scale(4, 1))):
        given = GivenBaseline(number, reference_scale, Scale(2, 1), Warnings())
        assert given.compare_with(SETTLED, 1)[:2] == (1378.0, 1.0)


@pytest.mark.parametrize(("factor", "warned"), [(0.25, True), (0.85, False), (1.0, False), (1.2, False), (1.5, True)])
def test_later_reference_run_warns_if_it_disagrees_with_its_baseline(store, factor, warned):
    reference(store, owner="first").update(SETTLED)
    of_file, of_number = Warnings(), Warnings()
    later = reference(store, owner="later", warn=of_file)
    given = GivenBaseline(1000.0, SINGLE, SINGLE, of_number)
    for steady in (replace(UNSETTLED, sps=1.0), replace(SETTLED, sps=1000.0 * factor)):
        later.update(steady)
        given.update(steady)
    assert ("disagree" in of_file, "disagree" in of_number) == (warned, warned)
    if warned:
        assert "'first'" in of_file["disagree"]
        assert store.path(WORKLOAD, SINGLE) in of_file["disagree"]


def test_wide_interval_may_explain_a_disagreement(store):
    reference(store, owner="first").update(SETTLED)
    warn = Warnings()
    reference(store, owner="later", warn=warn).update(replace(SETTLED, sps=600.0, error=80.0))
    assert not warn


def test_other_scales_are_expected_to_differ(store):
    reference(store).update(SETTLED)
    warn = Warnings()
    reference(store, Scale(4, 1), owner="b", warn=warn).update(replace(SETTLED, sps=4000.0))
    assert not warn


@pytest.mark.parametrize("scale", [SINGLE, Scale(2, 1)])
def test_trial_that_ends_without_a_baseline_warns(store, scale):
    warn = Warnings()
    trial = reference(store, scale, warn=warn)
    trial.update(UNSETTLED)
    assert not warn
    trial.end()
    assert list(warn) == ["missing"]
    assert "1r×1e" in warn["missing"]
    assert "7 to 10 iterations" in warn["missing"]


def test_trial_that_ends_with_a_baseline_does_not_warn(store):
    reference(store).update(SETTLED)
    warn = Warnings()
    trial = reference(store, Scale(2, 1), owner="b", warn=warn)
    trial.update(UNSETTLED)
    trial.end()
    reference(None, warn=warn).end()
    assert not warn


def test_without_a_store():
    trial = reference(None)
    trial.update(SETTLED)
    assert trial.is_baseline == 0
    assert math.isnan(trial.compare_with(SETTLED, 1000)[0])
