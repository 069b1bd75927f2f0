"""This repository's own study of the paper's claims; not installed with the package."""
