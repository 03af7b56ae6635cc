"""Commands: what `diafano` does when it is called from a shell, one file a command."""
