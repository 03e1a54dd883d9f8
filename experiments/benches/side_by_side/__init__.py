"""Speed of koopflow, compared with optimised PyTorch: the tables of docs/speed.md."""
