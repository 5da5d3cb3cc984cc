"""Tables as people write them."""

import json
import math

import pytest

from rl_scaling_callback.analysis.configurations import configurations
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.experiments import ExperimentError, read_experiment
from rl_scaling_callback.report import make_report
from tests.builders import HEADER


def write(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(*rows):
    return "\n".join(",".join(map(str, row)) for row in rows) + "\n"


def studies(tmp_path, text, **options):
    """Return the throughputs of each study by scale, by its title."""
    found = read_experiment(write(tmp_path, text), **options).studies
    return {study.title: {str(c.scale): round(c.sps) for c in configurations(study)} for study in found}


@pytest.mark.parametrize(
    ("text", "steps", "seconds"),
    [
        ("num_env_runners,env_steps,time_this_iter_s\n2,100,1\n2,100,3", 200, 4),
        ("num_env_runners,num_envs_per_env_runner,sps,time_this_iter_s\n2,1,100,1\n2,1,50,2", 200, 3),
        ("num_env_runners,env_steps,sps\n2,100,50\n2,100,100", 200, 3),
        # SPS is redundant next to env steps and time.
        ("num_env_runners,env_steps,time_this_iter_s,sps\n2,100,1,\n2,100,3,", 200, 4),
        # Names and numbers as people write them.
        ('Num Workers,Timesteps,Iteration Time (s)\n2,"1,000",1\n2,"1 000.0",3', 2000, 4),
        (f"\ufeff,,\n\niter, {HEADER}\n1,2,1,100,1\n2,2,1,100,3\n", 200, 4),
        *((f"workers;fps;time\n2;{number};1\n", 16384.5, 1) for number in ("16384,5", '"16384,5"', "16384.5", '"16,384.5"')),
        ("config/num_workers,env_runners/num_env_steps_sampled,time_this_iter_s,pid\n2,100,1,17\n2,100,3,18", 200, 4),
    ],
)
def test_columns_of_a_table(tmp_path, text, steps, seconds):
    (run,) = read_experiment(write(tmp_path, text)).studies[0].runs
    assert (run.scale, run.steady.env_steps, run.steady.seconds) == (Scale(2, 1), steps, pytest.approx(seconds))


ROWS = [{"n_envs": n, "fps": sps} for n, sps in ((1, 100.0), (4, 240.0), (16, 320.0))]
BY_ENVS = {"1r×1e": 100, "1r×4e": 240, "1r×16e": 320}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("table.jsonl", "\n".join(json.dumps({"reward": math.nan, "config": row}) for row in ROWS) + "\n"),
        ("table.json", json.dumps(ROWS)),
        *(("table.tsv", f"n_envs{mark}fps\n" + "".join(f"{row['n_envs']}{mark}{row['fps']}\n" for row in ROWS)) for mark in "\t;|"),
        ("table.md", "| n_envs | fps |\n|---|---|\n" + "".join(f"| {row['n_envs']} | {row['fps']} |\n" for row in ROWS)),
    ],
)
def test_formats(tmp_path, name, text):
    (study,) = read_experiment(write(tmp_path, text, name)).studies
    assert {str(run.scale): run.steady.sps for run in study.runs} == BY_ENVS


def test_dataframe():
    pandas = pytest.importorskip("pandas")
    gaps = pandas.DataFrame({"num_workers": [1, 2, 4], "fps": pandas.array([100, pandas.NA, 300], dtype="Int64")})
    assert [str(run.scale) for run in read_experiment(gaps).studies[0].runs] == ["1r×1e", "4r×1e"]
    frame = pandas.DataFrame(ROWS).assign(machine=["a", "a", None])
    experiment = read_experiment(frame)
    assert [study.title for study in experiment.studies] == ["DataFrame (machine: a)", "DataFrame (machine: none)"]
    assert experiment.notes[0] == "Columns: num_envs_per_env_runner is n_envs, sps is fps."
    plain = frame[["n_envs", "fps"]]
    nested = plain.set_axis(pandas.MultiIndex.from_product([["a"], plain.columns]), axis=1)
    for same, columns in ((plain.set_index("n_envs"), {}), (nested, {}), (plain.rename(columns={"fps": 0}), {"sps": "0"})):
        assert [run.steady.sps for run in read_experiment(same, columns=columns).studies[0].runs] == [*BY_ENVS.values()]
    with pytest.raises(TypeError, match="experiment is 3"):
        make_report(3)


def test_columns_by_name(tmp_path):
    budget = write(tmp_path, "n_envs,steps,seconds,fps\n1,1000,20.5,100\n4,1000,20.7,250\n")
    assert [run.steady.sps for run in read_experiment(budget, columns={"sps": "fps"}).studies[0].runs] == [100, 250]
    both = write(tmp_path, "n_envs,steps,seconds,fps\n1,1000,20,50\n2,1000,20,80\n4,2000,20,100\n8,2000,20,120\n")
    (study,) = read_experiment(both, columns={"sps": "fps", "time_this_iter_s": "seconds"}).studies
    assert [run.steady.sps for run in study.runs] == [50, 80, 100, 120]
    path = write(tmp_path, lines(("gpus", "step_fps", "train_fps"), (1, 90, 10), (4, 95, 43)))
    lacks = "lacks a column for the scale and a column for the speed; its columns are gpus, step_fps and train_fps"
    with pytest.raises(ExperimentError, match=lacks):
        read_experiment(path)
    for wrong in ({"speed": "gpus"}, {"sps": "FPS"}):
        with pytest.raises(ExperimentError, match=r"speed is not one of ours|there is no column FPS"):
            read_experiment(path, columns=wrong)


# Columns that are not ours


METHODS = lines(
    ("machine", "method", "num_envs", "FPS"),
    *((machine, method, n, f'"{sps * n:,}"') for machine, sps in (("a", 1000), ("b", 500)) for method in "xy" for n in (1, 2)),
)


def test_factors_make_studies_titled_by_what_differs_unless_pooled(tmp_path):
    assert studies(tmp_path, METHODS) == {
        f"table (machine: {machine}, method: {method})": {"1r×1e": sps, "1r×2e": 2 * sps}
        for machine, sps in (("a", 1000), ("b", 500))
        for method in "xy"
    }
    (*_, note) = read_experiment(write(tmp_path, METHODS)).notes
    assert note == "Rows that differ in machine or method are not compared with each other; --pool NAME merges them on purpose."
    (study, _) = read_experiment(write(tmp_path, METHODS), pool=["method"]).studies
    assert [run.name for run in study.runs] == ["1r×1e, x", "1r×2e, x", "1r×1e, y", "1r×2e, y"]


@pytest.mark.parametrize("column", ["seed", "rep", "Trial", "run"])
def test_repetitions_are_runs(tmp_path, column):
    rows = [(n, 100 * n, repetition) for repetition in (1, 2) for n in (1, 2)]
    (study,) = read_experiment(write(tmp_path, lines(("runners", "sps", column), *rows))).studies
    assert [(len(c.runs), c.sps) for c in configurations(study)] == [(2, pytest.approx(100)), (2, pytest.approx(200))]


ONE_TWO = {"1r×1e": 100, "2r×1e": 200}


@pytest.mark.parametrize(
    ("header", "rows", "expected"),
    [
        ("runners sps a b c d", [  # titles are short
            *((n, 100 * n, 1, 2, 3, 4) for n in (1, 2)),
            *((1, 90, a, b, c, d) for a, b, c, d in ((9, 2, 3, 4), (1, 8, 3, 4), (1, 2, 7, 4), (1, 2, 3, 6))),
        ], {"a: 1, b: 2, c: 3, d: 4": ONE_TWO} | {each: {"1r×1e": 90} for each in ("a: 9", "b: 8", "c: 7", "d: 6")}),
        # Names are not numbers of repetitions.
        ("runners sps seed", [(n, 100 * n, name) for name in "xy" for n in (1, 2)], {"seed: x": ONE_TWO, "seed: y": ONE_TWO}),
        ("runners steps seconds iter is_warmup", [  # increases of a lifetime count, in the order of iterations
            (1, 300, 1.0, 3, False), (1, 100, 9.0, 1, True), (1, 200, 1.0, 2, False), (1, 400, 1.0, 4, "false"), (1, 500, 1, 5, 0)
        ], {"": {"1r×1e": 100}}),
        ("runners sps sps_as_logged reward score train_time pid date", [  # other measurements
            (n, 100 * n, 99 * n, 5, 0.1 * n + i / 7, i, 1000 + 10 * n + i, "today") for n in (1, 2) for i in (1, 2, 3)
        ], {"": ONE_TWO}),
        ("name machine runners sps", [  # labels separate only rows of the same scale
            ("reference", "a", 1, 100), ("two", "a", 2, 190), ("pinned", "a", 2, 250), ("two", "b", 2, 90), ("four", "b", 4, 170)
        ], {
            "machine: a": {"1r×1e": 100, "2r×1e": 190},
            "machine: b": {"2r×1e": 90, "4r×1e": 170},
            "machine: a, name: pinned": {"2r×1e": 250},
        }),
        ("runners batch sps", [(n, 1024 * n, 100 * n) for n in (1, 2, 4, 4)], {"": ONE_TWO | {"4r×1e": 400}}),
        ("host runners sps", [("a", 1, 100), ("b", 2, 200)], {"host: a": {"1r×1e": 100}, "host: b": {"2r×1e": 200}}),
        ("runners timesteps_total fps", [(n, 1000 * k, 1000) for n in (1, 2) for k in (1, 2, 3)], {
            "": {"1r×1e": 1000, "2r×1e": 1000}
        }),
        ("runners fps time_total_s", [(n, 1000, k) for n in (1, 2) for k in (1, 2, 3)], {"": {"1r×1e": 1000, "2r×1e": 1000}}),
        ("runners env_steps elapsed", [(1, 1000 * k, 2.0 * k) for k in (1, 2, 3, 4)], {"": {"1r×1e": 500}}),
        ("runners env_steps seconds", [  # no lifetime count
            *((1, steps, 1.0) for steps in (1000, 1010, 1020, 1040)), (2, 2000, 1.0), (2, 1990, 1.0)
        ], {"": {"1r×1e": 1018, "2r×1e": 1995}}),
    ],
)  # fmt: skip
def test_what_separates_studies_and_counts(tmp_path, header, rows, expected):
    titled = {f"table ({differs})" if differs else "table": sps for differs, sps in expected.items()}
    assert studies(tmp_path, lines(header.split(), *rows)) == titled


def test_increases_of_a_lifetime_count_are_counted_which_is_said(tmp_path):
    rows = [(n, 1000 * k, 1 / n) for n in (1, 2) for k in (1, 2, 3)]
    experiment = read_experiment(write(tmp_path, lines(("runners", "env_steps", "seconds"), *rows)))
    assert [(run.steady.sps, run.steady.iterations) for run in experiment.studies[0].runs] == [(1000.0, 2), (2000.0, 2)]
    assert experiment.notes[-1] == "env_steps only grows: lifetime counts, of which the increases count. First rows are left out."


# What is known of the work


@pytest.mark.parametrize(
    ("table", "speedups", "sps", "seconds"),
    [
        ([("runners", "seconds"), (1, 12), (2, 8), (2, 7), (4, 4)], [1, 1.6, 3], 1 / 12, 12),
        ([("runners", "sps"), (1, 100), (1, 50), (2, 100)], [1, 1.5], 200 / 3, math.nan),  # iterations of equal work
    ],
)
def test_times_or_throughputs_alone_give_speedups(tmp_path, table, speedups, sps, seconds):
    experiment = read_experiment(write(tmp_path, lines(*table)))
    found = configurations(experiment.studies[0])
    assert [each.speedup for each in found] == pytest.approx(speedups)
    assert (found[0].sps, found[0].seconds) == pytest.approx((sps, seconds), nan_ok=True)
    assert math.isnan(found[0].runs[0].steady.env_steps)
    assumed = "Env steps are unknown: all rows are taken to have equally many, and SPS counts iterations."
    assert (assumed in experiment.notes) == ("seconds" in table[0])


# Damage


BAD = ["1,1,many,1", "1,1,100,0", "1,1,0,1", "1,1,100", "1,0,100,1", "1.5,1,100,1", "1,1,1,100,1", "1,1,inf,1", "1,1,100,nan"]
JSON = ['{"n_envs": 1, "fps": 100}', "[2]", "", '{"n_envs": 4, "f']


@pytest.mark.parametrize(
    ("rows", "left_out"), [([HEADER, "1,1,100,1", *BAD], [*range(3, 3 + len(BAD))]), (JSON, [2, 4])], ids=["csv", "jsonl"]
)
def test_unreadable_rows_are_left_out_by_line(tmp_path, rows, left_out):
    experiment = read_experiment(write(tmp_path, "\n".join(rows), "table"))
    assert [each.name for each in experiment.left_out] == [f"table, line {line}" for line in left_out]
    (run,) = experiment.studies[0].runs
    assert run.steady.iterations == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"\xff\xfe\x00\x01", "not a table in CSV, TSV or JSON lines in UTF-8"),
        ("num_envs_per_env_runner,env_steps\n1,100\n", "lacks a column for the speed; its columns are num_envs_"),
        ("num_env_runners,sps,sps\n1,1,100\n", "has sps twice"),
        (HEADER + "\n", "it has no rows"),
        ("", "it is empty"),
        (HEADER + "\n1,1,1,0\n", "no row can be read (env_steps is '1' and time_this_iter_s is '0'"),
        ("[[1]]", "not a table"),
        ('{"n_envs": 1', "not a table"),
    ],
)
def test_unreadable_table_names_what_it_lacks(tmp_path, text, reason):
    with pytest.raises(ExperimentError) as error:
        read_experiment(write(tmp_path, text))
    assert reason in str(error.value)
    assert "--column sps=NAME" in str(error.value)


def test_progress_of_stable_baselines(tmp_path):
    """Its loggers leave cells empty before the first update, and number updates."""
    header = "n_envs,time/iterations,time/fps,time/total_timesteps,time/time_elapsed,train/n_updates,train/clip_range"
    rows = [
        f"{n},{i},1,{2048 * i},{seconds * i},{f'{10 * i},0.2' if i > 1 else ','}"
        for n, seconds in ((1, 4), (2, 3))
        for i in range(1, 5)
    ]
    assert studies(tmp_path, "\n".join([header, *rows])) == {"table": {"1r×1e": 512, "1r×2e": 683}}


def test_throughputs_with_durations_of_whole_runs_are_comparable(tmp_path):
    (study,) = read_experiment(write(tmp_path, "workers,fps,duration\n1,100,60\n2,180,60\n")).studies
    assert [each.speedup for each in configurations(study)] == pytest.approx([1.0, 1.8])
