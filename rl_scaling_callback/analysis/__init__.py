"""From the runs of an experiment to a decision. No Ray and no files; only what measures has a clock and draws at random.

`runs` become `configurations`, with intervals, and `laws` and `returns` (how much sooner they learn); `choice` decides for a goal,
`checklist` checks. What measures: `probe_rounds`, until a `race` is over, and `thread_choice` for the learner.
"""
