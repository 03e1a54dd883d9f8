"""Densities of students against those of their teachers: the table of docs/density.md.

    python -m experiments.benches.density                  # moons and digits: half an hour on 2 cores
    python -m experiments.benches.density --cases moons
    python -m experiments.benches.density --quick          # whether it runs

Every case trains a teacher, distils it, and compares log-densities of held-out data. Digits in [-1, 1] are
used without noise, and with uniform noise that is as wide as one of their 17 grey levels.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np

from koopflow import FlowTeacher, KoopmanDistiller, datasets

LEVEL = 2 / 16
# (steps of the student, held-out samples)
CASES = {"moons": (3000, 1000), "digits with noise": (2500, 297), "digits": (2500, 297)}
TEACHER_STEPS = 3000


def samples(case: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out data."""
    if case == "moons":
        return datasets.moons(20_000, seed=2 * seed), datasets.moons(count, seed=2 * seed + 1)
    images, _ = datasets.digits()
    if "noise" in case:
        random = np.random.default_rng(seed)
        images = images + random.uniform(-LEVEL / 2, LEVEL / 2, images.shape).astype(np.float32)
    train, held_out = datasets.split(images, held_out=count, seed=seed)
    return train, held_out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--polish", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    options = parser.parse_args()
    columns = ["held out", "bits per dimension, teacher", "student", "correlation (where reached)", "reached"]
    columns += ["median residual, polished from", "to", "RMS difference, nats", "seconds, teacher", "student"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    for case in options.cases:
        steps, count = (50, 40) if options.quick else CASES[case]
        train, held_out = samples(case, count, options.seed)
        dimension = held_out.shape[1]
        teacher = FlowTeacher((dimension,), steps=50 if options.quick else TEACHER_STEPS, seed=options.seed)
        teacher.fit(train, progress=False)
        fewer = {"trajectories": 512} if options.quick else {}
        student = KoopmanDistiller(steps=steps, seed=options.seed, **fewer).fit(teacher, progress=False)
        started = time.perf_counter()
        theirs = np.asarray(teacher.log_prob(held_out, divergence="exact"), dtype=np.float64)
        teacher_seconds = time.perf_counter() - started
        with warnings.catch_warnings():
            # The warning is about samples that are not reached, which are counted below.
            warnings.simplefilter("ignore", RuntimeWarning)
            started = time.perf_counter()
            found = student.density(held_out, polish=options.polish)
            student_seconds = time.perf_counter() - started
            before = np.median(student.density(held_out, polish=0).residuals) / found.spread
        ours = np.asarray(found.log_prob, dtype=np.float64)
        reached = np.asarray(found.residuals) < 0.01 * found.spread
        bits = -theirs.mean() / (dimension * np.log(2))
        correlation = np.corrcoef(theirs[reached], ours[reached])[0, 1]
        difference = np.sqrt(np.mean((theirs - ours)[reached] ** 2))
        cells = [
            f"{case}, {count}",
            f"{bits:.4f}",
            f"{np.mean(found.bits_per_dim):.4f}",
            f"{correlation:.4f}",
            f"{reached.mean():.0%}",
            f"{before:.2%}",
            f"{np.median(found.residuals) / found.spread:.4%}",
            f"{difference:.3f}",
            f"{teacher_seconds:.1f}",
            f"{student_seconds:.1f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
