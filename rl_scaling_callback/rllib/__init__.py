"""All that depends on RLlib's keys, timers, API stacks and env runners. What can't be read is NaN, with a reason to warn of.

`results`, `configs`, `introspection` and `hardware` read, by the `names` of each release; values are identified by their `content`.
`hooks` attaches `clocks` to an Algorithm, and the callback to its env runners. `prober` measures other scales with `twins` of the
env runners. `rescale` and `threads` change an Algorithm.
"""
