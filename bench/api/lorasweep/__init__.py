"""`import lorasweep`: what `bench.api` has. setup.py installs this folder under that name, beside bench and plots."""

from bench.api import *  # noqa: F403
from bench.api import __all__ as __all__
from bench.api import __doc__ as __doc__
