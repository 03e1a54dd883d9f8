"""Held-out digits, fixed noise and a classifier, which measure every model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from koopflow import _core, datasets, metrics

from ..images import CLASSES, recognised

EVALUATION_SEED = 900_000_000
HELD_OUT = 2_000
EXACT = 2_000  # Largest number of samples for the exact distance.
Images = NDArray[np.float32]


class Classifier(torch.nn.Module):
    """A classifier with two convolutions, dropout and 64 features."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(1, 32, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(32, 64, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Dropout(0.3),
            torch.nn.Linear(64 * 49, 64),
            torch.nn.ReLU(),
        )
        self.head = torch.nn.Linear(64, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(x))
        return logits


def trained_classifier(images: Images, labels: NDArray[np.int64], seed: int, epochs: int) -> Classifier:
    """A classifier trained on digits that are shifted by up to two pixels in each direction."""
    torch.manual_seed(seed)
    model = Classifier().train()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, epochs * -(-len(x) // 128))
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            moved = torch.roll(x[rows], torch.randint(-2, 3, (2,)).tolist(), (2, 3))
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(moved), y[rows]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


class Eyes(torch.nn.Module):
    """Feature maps of a classifier other than the judge's, from other layers, for ``features=``.

    Each position of a map is scaled to unit length over its channels, as LPIPS does (arXiv 1801.03924).
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        layers = classifier.features
        self.maps = torch.nn.ModuleList([layers[:2], layers[2:5]])
        self.rest = layers[5:]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for stage in self.maps:
            x = stage(x)
            maps.append(x / x.square().sum(1, keepdim=True).add(1e-2).sqrt())
        return [*maps, self.rest(x)]


def kept(file: Path, make: Callable[[], Classifier]) -> Classifier:
    """A classifier that an earlier call kept, or else a new one."""
    if file.exists():
        model = Classifier()
        model.load_state_dict(torch.load(file, weights_only=True))
        return model.eval()
    model = make()
    torch.save(model.state_dict(), file)
    return model


class Judge:
    """8,000 digits for training, and 2,000 held out by a split that is the same for every seed."""

    def __init__(self, data: str, folder: Path, *, samples: int, epochs: int, seed: int) -> None:
        images, labels = datasets.mnist(data, split="test")
        split = datasets.split(images, labels, held_out=HELD_OUT, seed=0)
        self.train, self.held_out, self.train_labels, self.held_out_labels = map(np.asarray, split)

        # The classifier defines the measure, so it is the same for all seeds.
        def trained(seed: int) -> Callable[[], Classifier]:
            return lambda: trained_classifier(self.train, self.train_labels, seed, epochs)

        self.classifier = kept(folder / "classifier.pt", trained(0))
        self.eyes = Eyes(kept(folder / "eyes.pt", trained(1)))
        self.accuracy = recognised(self.classifier, self.held_out, self.held_out_labels)
        self.features = metrics.extract_features(self.held_out, self.classifier.features)
        self.noise = np.asarray(_core.normal((samples, *self.train.shape[1:]), EVALUATION_SEED + seed))
        self.labels = np.arange(samples, dtype=np.int64) % CLASSES
        self.deviation = float(np.sqrt(self.train.reshape(len(self.train), -1).var(axis=0).sum()))

    def floor(self) -> dict[str, float]:
        """Distances of the same number of training digits from held-out digits."""
        return self.distances(self.train[: len(self.noise)])

    def distances(self, images: Images) -> dict[str, float]:
        own = metrics.extract_features(images, self.classifier.features)
        near = metrics.precision_recall(own[:EXACT], self.features[:EXACT])
        return {
            "frechet": metrics.frechet_distance(own, self.features),
            "w2": metrics.wasserstein2(own[:EXACT], self.features[: min(len(own), EXACT)]),
            "precision": near.precision,
            "recall": near.recall,
        }

    def quality(self, images: Images) -> dict[str, float]:
        """Distances and accuracy of samples of the judge's noise and classes."""
        return {**self.distances(images), "recognised": recognised(self.classifier, images, self.labels)}

    def errors(self, path: Any, exact: Any) -> dict[str, float]:
        """Endpoint and path error of ``[T, N, ...]`` against the teacher's, over the data's deviation."""
        gap = np.asarray(path, np.float64) - np.asarray(exact, np.float64)
        each = np.sqrt((gap.reshape(*gap.shape[:2], -1) ** 2).sum(axis=2).mean(axis=1)) / self.deviation
        return {"endpoint": float(each[-1]), "path": float(each[:-1].mean())}


def decibels(images: Images, found: Any) -> float:
    """PSNR of images in [-1, 1], from the mean squared error over all of them."""
    error = np.mean((np.clip(np.asarray(found, np.float64), -1, 1) - images) ** 2)
    return float(10 * np.log10(4 / error))
