"""What a type checker sees of the public names; `make lint` checks this file, nothing runs it."""
