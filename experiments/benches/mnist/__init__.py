"""Measurements on MNIST at 28x28: teachers, students and few-step solvers, with the metrics of the field."""
