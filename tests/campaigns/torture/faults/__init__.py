"""Named faults, each put into a sweep on purpose: what must hold afterwards, and what the user must be told."""

from tests.campaigns.torture.faults import disk, files, packs, signals  # noqa: F401  each registers its faults
from tests.campaigns.torture.faults.checks import FAULTS, Skipped

__all__ = ["FAULTS", "Skipped"]
