"""Statistics of layers and networks, and the null models they are read against."""
