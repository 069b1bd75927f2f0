"""Sweeps: a grid of runs, its cells on Dask workers, one table of results."""
