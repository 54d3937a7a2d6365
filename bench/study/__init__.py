"""Study files and options -> Study -> Trials; every error of bad input is raised here."""

from bench.study.resolve import STUDIES_DIR, cells, expand, load, make_trial, names, trace

__all__ = ["STUDIES_DIR", "cells", "expand", "load", "make_trial", "names", "trace"]
