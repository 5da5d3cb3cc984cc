"""Finds the best configuration before training (see `sweep`)."""
