"""The self-similarity rate of a feature network, from distances to area and gradient."""
