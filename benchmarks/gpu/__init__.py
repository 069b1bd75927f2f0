"""The package on a graphics card: correctness, speed, the cost in a training step, and part of the study."""
