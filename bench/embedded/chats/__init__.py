"""Conversations that ship with the package: short questions with one right answer (chat-demo)."""
