"""Finds the best configuration by measuring few of them: on Tune, and so on any cluster of Ray."""
