"""Networks to look at: the probe, the architectures of the paper, the data."""
