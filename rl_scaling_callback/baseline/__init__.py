"""The baseline: what the reference measured, where it is kept, and how a trial comes by it."""
