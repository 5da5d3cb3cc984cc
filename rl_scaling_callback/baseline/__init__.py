"""What a trial is compared with.

`source` provides it: a number, the `tracker` of a `Baseline` in the `store`, or probes (`probed`), which `spells` compares
with the trial's iterations between them.
"""
