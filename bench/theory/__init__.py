"""The theorem behind two learning rates, measured."""
