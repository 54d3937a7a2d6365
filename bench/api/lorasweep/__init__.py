"""`import lorasweep`: what `bench.api` has. setup.py installs this folder under that name, beside bench and plots."""

from bench.api import BadInput, Plan, Recommendation, best, compare, heatmap, load, plan, recommend, sweep

__all__ = ["BadInput", "Plan", "Recommendation", "best", "compare", "heatmap", "load", "plan", "recommend", "sweep"]
