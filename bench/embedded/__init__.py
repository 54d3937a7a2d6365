"""Data and models that ship with the package, and how they were made."""
