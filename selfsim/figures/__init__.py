"""The figures and tables that the notebooks show."""
