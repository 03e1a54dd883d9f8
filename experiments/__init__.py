"""Studies of koopflow by koopflow: not part of the wheel."""
