"""Values and arithmetic of a measurement: no Ray, no clock, no files."""
