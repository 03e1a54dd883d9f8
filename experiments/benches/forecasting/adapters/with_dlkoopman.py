"""dlkoopman: its trajectory predictor, an autoencoder with a linear layer, in a short training."""

from __future__ import annotations

import numpy as np
import torch
from dlkoopman.config import Config
from dlkoopman.traj_pred import TrajPred, TrajPredDataHandler
from exchange import Forecast, Real, serve

LONGEST = 50  # Largest number of steps of a training path, which the library unrolls one after the other.
ENCODED, HIDDEN, EPOCHS, BATCH = 32, [100, 100], 60, 125
PATHS = 1000


def trained(paths: Real, dt: float) -> Forecast:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = min(paths.shape[1], LONGEST + 1)
    # Longer paths are cut into pieces.
    cut = [paths[:, at : at + rows] for at in range(0, paths.shape[1] - rows + 1, rows - 1)]
    pieces = np.concatenate(cut)
    pieces = pieces[np.random.default_rng(0).permutation(len(pieces))[:PATHS]]
    data = TrajPredDataHandler(Xtr=pieces, cfg=Config(use_cuda=False, torch_compile_backend=None))
    model = TrajPred(data, ENCODED, encoder_hidden_layers=HIDDEN, decoder_hidden_layers=HIDDEN)
    model.train_net(numepochs=EPOCHS, batch_size=BATCH)

    def forecast(contexts: Real, count: int) -> Real:
        # A forecast has as many rows as the training paths; further rows start from the last of these.
        x, out = contexts[:, -1], np.empty((0, *contexts[:, -1].shape))
        while len(out) < count:
            found = model.predict_new(x).numpy().swapaxes(0, 1)[1:]
            out, x = np.concatenate([out, found]), found[-1]
        return out[:count]

    return forecast


serve({"TrajPred": trained})
