"""Studies of koopflow itself, run from a checkout and not part of the wheel: README.md lists the commands."""
