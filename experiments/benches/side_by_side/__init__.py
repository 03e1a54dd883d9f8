"""koopflow beside the best that one can write in PyTorch: the tables of docs/speed.md."""
