"""The commands: one file each, named as on the command line; this directory is the registry.

A file defines `command`, a function as typer takes them that returns an exit code (None: 0); a study's options come
with `_options.study_command`. A file imports what it needs inside the function, so that no command waits for another's
imports. Files whose name begins with `_` are not commands.
"""
