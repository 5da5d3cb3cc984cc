"""Load test of a baseline store: `python tests/benchmarks/store.py [--trials 10000] [--workloads 100] [--processes 1 2 4]`.

Simulates trials without Ray. Prints the start-up time of a trial as other baselines accumulate, the rates of reading and
writing files, the time for 10,000 trials to start, measure and end in one store, and whether the last of them start as fast as
the first. `--place` is a directory or a URI.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context

from rl_scaling_callback.baseline.model import Baseline
from rl_scaling_callback.baseline.store import BaselineStore
from rl_scaling_callback.baseline.tracker import BaselineTracker
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE, Steady, SteadyWindow
from rl_scaling_callback.core.trial import Trial
from rl_scaling_callback.core.workload import Workload
from rl_scaling_callback.rllib.facts import read_facts

REFERENCE = Scale(1, 1)
PARALLEL = Scale(4, 1)
STEPS = 1000.0
NOTHING_YET = SteadyWindow(DEFAULT_RULE).read()
PARTS = {"sample": 70.0, "learn": 9.0, "sync": 0.5, "other": 0.5, "busy": 69.0, "longest": 69.0}


def workload(number: int) -> Workload:
    """Return a workload with a realistic number of facts."""
    facts = read_facts({"env": "HalfCheetah-v5", "num_epochs": number})
    return Workload(facts | {"cpu": "a CPU", "cores": 8, "accelerators": [], "ray": "2.60.0"})


def steady(number: int) -> Steady:
    """Return a measurement of 8 iterations that identifies the workload."""
    sps = 1000.0 + number
    return Steady(sps, 2.0, 8, 8 * STEPS, 8 * STEPS / sps, converged=True, settled=True, parts=PARTS)


def fill(place: str, numbers: Iterable[int]) -> None:
    """Publish baselines of these workloads."""
    store = BaselineStore.at(place)
    for number in numbers:
        provenance = {"trial": f"trial {number}"}
        store.publish(Baseline(steady(number), REFERENCE, workload(number), f"experiment/{number}", provenance))


def start(
    place: str, number: int, warnings: list[str], scale: Scale = PARALLEL, owner: str = "late"
) -> tuple[float, BaselineTracker]:
    """Start a trial; return how long it took to open the store and look for a baseline [s], and its tracker."""
    started = time.perf_counter()
    trial = BaselineTracker(
        BaselineStore.at(place),
        Trial(owner, scale, workload(number), provenance={"trial": owner}),
        REFERENCE,
        warn=lambda topic, text: warnings.append(topic),
    )
    trial.update(NOTHING_YET)
    return time.perf_counter() - started, trial


def sps_of(trial: BaselineTracker) -> float:
    """Return the SPS that a trial is compared with [steps/s]."""
    return trial.compare_with(NOTHING_YET, STEPS)[0]


def startup(place: str, most: int) -> None:
    """Print the time to start a trial as the number of baselines in the store grows."""
    print("start of a trial [ms], median (95th percentile) of 30")
    print(f"{'baselines in the store':>24}{'its own is there':>24}{'only others: what differs':>28}")
    there = 0
    for count in (1, 10, 100, 1000, 10_000):
        if count > most:
            break
        fill(place, range(there, count))
        there = count
        found = [start(place, random.randrange(count), []) for _ in range(30)]
        assert all(sps_of(trial) >= 1000 for _, trial in found)
        warnings: list[str] = []
        lacking = [start(place, -1, warnings) for _ in range(30)]
        assert warnings == ["mismatch"] * 30
        print(f"{count:24,}{spread(found):>24}{spread(lacking):>28}")


def spread(starts: list[tuple[float, BaselineTracker]]) -> str:
    """Return median and 95th percentile, in ms."""
    times = sorted(1000 * seconds for seconds, _ in starts)
    return f"{statistics.median(times):.2f} ({times[int(0.95 * len(times))]:.2f})"


def read_all(place: str, seconds: float, workloads: int, seed: int) -> int:
    """Read baselines for some seconds; return how many."""
    store, draw, done = BaselineStore.at(place), random.Random(seed), 0
    all_workloads = [workload(number) for number in range(workloads)]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        number = draw.randrange(workloads)
        baseline = store.load(all_workloads[number], REFERENCE)
        assert baseline is not None
        assert baseline.steady.sps == 1000 + number
        done += 1
    return done


def write_all(place: str, seconds: float, workloads: int, seed: int) -> int:
    """Publish baselines for some seconds, the same ones in all processes; return how many."""
    draw, done = random.Random(seed), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        fill(place, draw.choices(range(workloads), k=20))
        done += 20
    return done


def rates(place: str, processes: Iterable[int], workloads: int, seconds: float = 5.0) -> None:
    """Print the rates of reading, writing, and reading while others write."""
    fill(place, range(workloads))
    print(f"\nbaselines a second, {workloads} files")
    print(f"{'processes':>10}{'read':>10}{'written':>10}{'both at once: read':>20}{'written':>10}")
    for count in processes:
        with workers(count) as pool:
            totals = []
            for step in (read_all, write_all):
                done = pool.map(partial(step, place, seconds, workloads), range(count))
                totals.append(sum(done) / seconds)
        with workers(2 * count) as pool:
            futures = [
                [pool.submit(step, place, seconds, workloads, seed) for seed in range(count)] for step in (read_all, write_all)
            ]
            totals += [sum(future.result() for future in group) / seconds for group in futures]
        print("{:10}{:10,.0f}{:10,.0f}{:20,.0f}{:10,.0f}".format(count, *totals))


def live(place: str, workloads: int, trials: range) -> list[tuple[int, float]]:
    """Run trials in sequence, the first of each workload as its reference; return the number and start-up time [s] of each."""
    starts = []
    for number in trials:
        is_reference, measured = number < workloads, steady(number % workloads)
        scale = REFERENCE if is_reference else PARALLEL
        seconds, trial = start(place, number % workloads, [], scale, f"experiment/{number}")
        starts.append((number, seconds))
        trial.update(measured)
        assert sps_of(trial) == measured.sps
        assert trial.is_baseline == is_reference
    return starts


def lives(place: str, count: int, workloads: int, processes: int) -> None:
    """Print the time of many trials, and the start-up times of the first and the last of them."""
    began = time.perf_counter()
    # References run first, because other trials would wait for them.
    starts = live(place, workloads, range(workloads))
    with workers(processes) as pool:
        shares = [range(workloads + share, count, processes) for share in range(processes)]
        for share in pool.map(partial(live, place, workloads), shares):
            starts += share
    seconds = time.perf_counter() - began
    starts.sort()
    tenth = max(1, (count - workloads) // 10)
    early, late = starts[workloads : workloads + tenth], starts[-tenth:]
    print(f"\n{count:,} trials of {workloads} workloads, {processes} at a time: {seconds:.1f} s, {count / seconds:,.0f} a second")
    for name, part in (("first", early), ("last", late)):
        print(f"start of the {name} {len(part):,}: median {1000 * statistics.median(taken for _, taken in part):.2f} ms")


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of started processes, spawned because pyarrow's threads don't survive a fork."""
    with ProcessPoolExecutor(count, get_context("spawn")) as pool:
        list(pool.map(time.sleep, [0.5] * count))
        yield pool


def main() -> None:
    """Run all measurements."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--trials", type=int, default=10_000)
    arguments.add_argument("--workloads", type=int, default=100)
    arguments.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    arguments.add_argument("--place", help="directory or URI without baselines [default: a temporary directory]")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = (options.place or temporary).rstrip("/")
        startup(f"{place}/startup", options.trials)
        rates(f"{place}/rates", options.processes, options.workloads)
        lives(f"{place}/lives", options.trials, options.workloads, max(options.processes))


if __name__ == "__main__":
    main()
