"""The values and arithmetic of a measurement. Uses no Ray, clock or files."""
