"""Which trials train together, and how long a sweep takes."""
