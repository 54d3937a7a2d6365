"""Rows -> cells chosen, differences with intervals, sentences; and checks that such claims hold."""
