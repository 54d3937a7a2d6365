"""The words that every room uses: trials, rows, errors, seeds, clocks, devices, statistics."""
