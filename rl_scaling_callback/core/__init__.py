"""The values and arithmetic of a measurement. Uses no Ray, clock or files.

A `trial` has a `scale` and a workload; `steady` sums up its iterations; `attribution` and `probing` relate them to a
baseline by the `formulas`; `schema` lists the injected keys.
"""
