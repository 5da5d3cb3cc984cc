"""The baseline: what the reference trial measured, where it is stored and how other trials find it."""
