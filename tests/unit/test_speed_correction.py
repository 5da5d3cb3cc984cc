import math
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest

from rl_scaling_callback.analysis.configurations import configurations
from rl_scaling_callback.analysis.runs import Experiment, Run, Study
from rl_scaling_callback.analysis.speed_correction import correct_speed
from rl_scaling_callback.core.attribution import PARTS
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import SteadyRule, SteadyWindow
from rl_scaling_callback.report.report import make_report
from rl_scaling_callback.report.wording import notes

EVERYTHING = SteadyRule(warmup_iterations=0)
SCALES = [Scale(r, e) for r in (1, 2, 4) for e in (1, 2, 4)]


def seconds(scale):
    return 0.3 + (0.5 + 2.0 / scale.num_envs_per_env_runner) / scale.num_env_runners


def run(scale, factor=1.0, learn_s=0.3, env_steps=1000, iterations=5):
    """A run in which everything takes `factor` times as long; at the usual speed, the learner's update takes 0.3 s."""
    total = factor * seconds(scale)
    known = {"learn": factor * learn_s, "sync": 0.01, "other": 0.02}
    sample = total - sum(known.values())
    window = SteadyWindow(EVERYTHING)
    for _ in range(iterations):
        window.add(env_steps, total, dict.fromkeys(PARTS, sample) | known)
    return Run(name=str(scale), scale=scale, steady=window.read())


def study(rng, std=0.15, repetitions=3, **facts):
    factors = np.exp(rng.normal(0, std, (len(SCALES), repetitions)))
    # Windows differ in length, as in trials that stop once precise enough.
    runs = (run(s, f, iterations=5 + k) for s, row in zip(SCALES, factors, strict=True) for k, f in enumerate(row))
    return Study("test", tuple(runs), **facts)


def error(study):
    """Root mean square of the error of ln speedup."""
    return math.sqrt(fmean(math.log(c.speedup * seconds(c.scale) / seconds(Scale(1, 1))) ** 2 for c in configurations(study)))


def test_changing_machine_speed_is_corrected():
    errors = []
    for seed in range(20):
        measured = study(np.random.default_rng(seed))
        corrected = correct_speed(measured)
        assert corrected.correction.slope == pytest.approx(1, abs=0.02)
        assert corrected.correction.measured == pytest.approx(0.15, rel=0.5)
        assert corrected.correction.corrected < 0.01
        errors.append((error(measured), error(corrected)))
    # A trend over runners and envs that the machine's speed had by chance remains.
    assert fmean(after for _, after in errors) < 0.6 * fmean(before for before, _ in errors)


def test_learner_trend_over_env_runners_is_not_corrected():
    runs = [run(s, learn_s=0.2 * s.num_env_runners**0.3, factor=f) for s in SCALES for f in (0.9, 1.0, 1.1)]
    corrected = correct_speed(Study("test", tuple(runs)))
    assert corrected.correction is not None
    assert error(corrected) == pytest.approx(0, abs=1e-9)


def test_outlier_of_the_learner_is_not_machine_speed():
    held_up = replace(run(Scale(1, 1)).steady, parts=run(Scale(1, 1)).steady.parts | {"learn": 5 * 6 * 0.3})
    runs = [replace(run(Scale(1, 1)), steady=held_up), run(Scale(2, 1)), run(Scale(4, 1), factor=1.1)]
    corrected = correct_speed(Study("test", tuple(runs)), "always")
    assert corrected.runs[0].steady == held_up
    assert corrected.runs[1].steady.sps < runs[1].steady.sps
    assert corrected.runs[2].steady.sps > runs[2].steady.sps
    assert correct_speed(Study("test", tuple(runs[:2])), "always").correction is None


def test_losses_still_sum_to_the_total():
    (made,) = make_report(Experiment("test", (study(np.random.default_rng(1)),))).studies
    assert made.study.correction is not None
    assert any("corrected for the machine's speed" in note for note in notes(made))
    for each in made.configurations:
        assert sum(each.losses.values()) == pytest.approx(each.loss, abs=1e-9)


def test_never_changes_nothing():
    measured = study(np.random.default_rng(1))
    (made,) = make_report(Experiment("test", (measured,)), correction="never").studies
    assert made.study is measured


def test_always_uses_the_usual_slope_without_repeats():
    factors = dict(zip(SCALES, np.exp(np.random.default_rng(1).normal(0, 0.2, len(SCALES))), strict=True))
    measured = Study("test", tuple(run(s, f) for s, f in factors.items()))
    (made,) = make_report(Experiment("test", (measured,)), correction="always").studies
    assert error(made.study) < 0.1 * error(measured)
    assert any("Too few trials were repeated" in note for note in notes(made))
    assert correct_speed(measured) is measured


def test_one_repeat_gives_errors_with_the_usual_slope():
    corrected = correct_speed(
        Study("test", tuple(run(s, f) for s, f in zip([*SCALES, SCALES[3]], [1.0] * 9 + [1.1], strict=True))), "always"
    )
    assert all(each.speedup_error > 0 for each in configurations(corrected) if not each.is_baseline)


def test_invalid_correction_is_named():
    with pytest.raises(ValueError, match="correction is 'often'; allowed are repeated, always, never"):
        make_report(Experiment("test", (study(np.random.default_rng(1)),)), correction="often")


def without_learner(run):
    return replace(run, steady=replace(run.steady, parts={}))


@pytest.mark.parametrize(
    "measured",
    [
        Study("no runs", ()),
        study(np.random.default_rng(1), repetitions=1),
        study(np.random.default_rng(1), exclusive_phases=False),
        Study("few repetitions", tuple(run(s, f) for s in SCALES[:5] for f in (0.9, 1.1))),
        Study("no learner in one", (without_learner(run(SCALES[0])), *study(np.random.default_rng(1)).runs)),
        Study("a batch of its own", (run(SCALES[0], env_steps=2000), *study(np.random.default_rng(1)).runs)),
        Study("always the same", tuple(run(s) for s in SCALES for _ in range(3))),
    ],
    ids=lambda study: study.title,
)
def test_uncorrectable_studies_are_unchanged(measured):
    assert correct_speed(measured) is measured


def test_unrelated_learner_time_corrects_nothing():
    corrected = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        runs = [run(s, f, learn_s=0.1 * n) for s in SCALES for f, n in np.exp(rng.normal(0, (0.15, 0.3), (3, 2)))]
        # The learner's time is independent of everything else.
        runs = [replace(r, steady=replace(r.steady, parts=r.steady.parts | {"learn": rng.uniform(1, 2)})) for r in runs]
        corrected += correct_speed(Study("test", tuple(runs))).correction is not None
    assert corrected <= 6, "1 % of 200, plus a margin"


def test_coverage_of_corrected_intervals():
    held = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        one, other = ({each.scale: each for each in configurations(correct_speed(noisy(rng)))} for _ in range(2))
        both = [(one[scale], other[scale]) for scale in SCALES[1:]]
        held += [abs(math.log(a.speedup / b.speedup)) <= math.log1p(a.speedup_error / 100) for a, b in both]
    assert 0.93 <= fmean(held) <= 0.99


def noisy(rng):
    factors = np.exp(rng.normal(0, (0.12, 0.04), (len(SCALES), 3, 2)))
    runs = [run(s, machine * own, learn_s=0.3 / own) for s, row in zip(SCALES, factors, strict=True) for machine, own in row]
    return Study("test", tuple(runs))
