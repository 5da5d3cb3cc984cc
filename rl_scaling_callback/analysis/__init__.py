"""From the runs of an experiment to a decision. Numbers only: no Ray, no clock, no file."""
