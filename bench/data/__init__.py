"""Texts, prompts and toy inputs -> token ids and the places of the loss."""
