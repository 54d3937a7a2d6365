"""The fault campaign: sweeps that are killed, starved, misled and fed broken files; `python -m tests.torture`."""
