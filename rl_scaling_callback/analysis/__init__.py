"""From the runs of an experiment to a decision. No Ray and no files; only what measures has a clock and draws at random.

`runs` become `configurations`, with intervals by `noise`, and `laws` and `returns` (how much sooner they learn); `goals` and
`choice` decide, `checklist` checks. What measures: `probe_rounds`, until a `race` is over, and `thread_choice` for the learner.
"""
