"""Many adapters, one base: what it costs to serve them merged, unmerged, switched, or mixed in one batch."""
