"""The analysis of a whole model in one call."""
