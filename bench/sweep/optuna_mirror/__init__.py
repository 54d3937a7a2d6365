"""What Optuna sees of a sweep, and what it is asked: the one room that knows Optuna."""
