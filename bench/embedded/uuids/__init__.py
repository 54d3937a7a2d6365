"""Pairs of UUIDs to memorise, and the small decoder that is shipped to memorise them."""
