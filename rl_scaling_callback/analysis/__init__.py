"""From the runs of an experiment to a decision. Pure computation: no Ray, clock or file access."""
