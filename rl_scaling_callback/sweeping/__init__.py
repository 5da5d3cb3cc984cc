"""Finds the best configuration before training: `sweep` does it `by_probes` or `by_training`, in the process of a `host`."""
