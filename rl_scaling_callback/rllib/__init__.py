"""All that depends on RLlib's keys, timers, API stacks and env runners. What can't be read is NaN, with a reason to warn of.

`results`, `configs`, `introspection` and `hardware` read, by the `names` of each release; `facts` is what must match for a fair
comparison, identified by its `content`. `hooks` attaches `phases` to an Algorithm, and `sampling` times env runners. `prober`
measures other scales with `twins` of the env runners, and `isolation` keeps them from affecting training. `rescale` and `threads`
change an Algorithm.
"""
