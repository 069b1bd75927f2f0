"""Activations in, numbers out: distances, feature network, SS rate. No neural network in it."""
