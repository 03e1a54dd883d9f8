#!/usr/bin/env python
"""situation: a teacher with BatchNorm is attached while still in training mode
expected: noticed (as dropout is), or put into evaluation mode; the user's running statistics are not changed
"""
from situation import *


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.BatchNorm1d(32), torch.nn.Tanh(), torch.nn.Linear(32, 2))

    def forward(self, t, x):
        return self.net(torch.cat([x, t[:, None]], 1))


def main():
    torch.manual_seed(0); net = Net()
    for _ in range(50): net(torch.rand(64), torch.randn(64, 2))
    before = net.net[1].running_mean.clone(); count = int(net.net[1].num_batches_tracked)
    e = told(lambda: FlowTeacher.from_torch(net, (2,)))
    if e is not None: return f"PASS refused: {text(e)}"
    teacher = FlowTeacher.from_torch(net, (2,))
    x = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    alone, together = teacher.velocity(0.5, x[:2])[0], teacher.velocity(0.5, x)[0]
    small().fit(teacher, progress=False)
    changed = float((net.net[1].running_mean - before).abs().max()); calls = int(net.net[1].num_batches_tracked) - count
    by = float(np.abs(alone - together).max())
    if by < 1e-6 and changed == 0 and calls == 0 and net.training:
        return "PASS asked in evaluation mode, and left as it was"
    return f"FAIL the velocity of one sample depends on its batch (by {by:.2g}), and koopflow's {calls} calls moved the user's running mean by {changed:.2g}"


if __name__ == "__main__":
    answer(main)
