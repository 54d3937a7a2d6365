"""Bad input by the thousand: whatever is read ends in a result or in one line of BadInput; `python -m tests.fuzz`."""
