"""Box covering of any graph or distance matrix: covers, counts, dimension. Knows nothing of neural networks."""
