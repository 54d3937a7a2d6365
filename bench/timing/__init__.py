"""Measured speeds: methods alone, and this harness against its peers."""
