"""One iteration of a running trial: timed, compared with the baseline, injected into the result."""
