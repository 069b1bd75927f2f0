"""Training under the self-similarity constraint, and its finished runs."""
