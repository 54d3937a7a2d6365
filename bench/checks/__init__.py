"""What is checked before a sweep (doctor) and after it (verify)."""
