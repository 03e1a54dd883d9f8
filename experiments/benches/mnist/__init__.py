"""Real images, MNIST at 28x28: teachers, students and few-step solvers, judged as the field judges."""
