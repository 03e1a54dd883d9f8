"""The Fréchet inception distance by torch-fidelity, against that library run by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from koopflow import metrics
from koopflow.exceptions import ArgumentError, CheckpointError, ShapeError

torch_fidelity = pytest.importorskip("torch_fidelity")
fid = pytest.importorskip("torch_fidelity.metric_fid")


class Tiny(torch_fidelity.FeatureExtractorBase):
    """Six features of bytes; it refuses anything else, as those of torch-fidelity do."""

    def __init__(self, name, features_list, **options):
        super().__init__(name, features_list)
        self.options = options
        torch.manual_seed(0)
        self.mix = torch.nn.Conv2d(3, 6, 3)

    def forward(self, images):
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        means = torch.tanh(self.mix(images.float() / 127.5 - 1.0)).mean((2, 3))
        return tuple({"mean": means, "more": 2.0 * means}[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list():
        return ("more", "mean")

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "mean"

    @staticmethod
    def can_be_compiled():
        return False


class Mine(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


@pytest.fixture(scope="module")
def registered():
    name = "koopflow-tests-tiny"
    torch_fidelity.register_feature_extractor(name, Tiny)
    yield name
    del torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY[name]


def pictures(n, seed, channels=3):
    rng = np.random.default_rng(seed)
    shade = rng.normal(40.0 * seed, 30.0, size=(n, channels, 1, 1))
    return torch.from_numpy(
        np.clip(shade + rng.normal(90, 40, size=(n, channels, 8, 8)), 0, 255).astype("u1")
    )


def as_floats(bytes_):
    return bytes_.float() / 127.5 - 1.0


def test_it_is_torch_fidelitys(registered):
    a, b = pictures(60, 1), pictures(50, 2)
    expected = torch_fidelity.calculate_metrics(
        input1=Mine(a), input2=Mine(b), fid=True, feature_extractor=registered,
        cuda=False, save_cpu_ram=True, cache=False, verbose=False,
    )[fid.KEY_METRIC_FID]  # fmt: skip
    for x, y in ((a, b), (as_floats(a), as_floats(b)), (as_floats(a).double().numpy(), b.numpy())):
        assert metrics.frechet_distance(x, y, registered, batch_size=16) == pytest.approx(expected, rel=1e-5)
    module = Tiny("mine", ["more", "mean"])
    assert metrics.frechet_distance(a, b, module) == pytest.approx(expected, rel=1e-5)
    assert metrics.frechet_distance(a, b, Tiny("mine", ["more"])) == pytest.approx(4 * expected, rel=1e-5)


@pytest.mark.parametrize(("n", "m", "size"), [(300, 400, 5), (500, 90, 64)])
def test_the_own_formula_is_torch_fidelitys(n, m, size):
    rng = np.random.default_rng(size)
    a, b = rng.normal(size=(n, size)), 0.5 + rng.normal(size=(m, size)) @ rng.normal(size=(size, size))
    parts = [fid.fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    expected = fid.fid_statistics_to_metric(*parts, verbose=False)[fid.KEY_METRIC_FID]
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_features_are_made_once_for_other_metrics(registered):
    a, b = as_floats(pictures(40, 1)), as_floats(pictures(40, 2))
    features = [metrics.extract_features(x, registered) for x in (a, b)]
    assert features[0].shape == (40, 6)
    assert metrics.frechet_distance(*features) == pytest.approx(
        metrics.frechet_distance(a, b, registered), rel=1e-6
    )
    assert metrics.precision_recall(a, b, features=registered) == metrics.precision_recall(*features)


def test_grey_pictures_have_one_channel_three_times(registered):
    grey = pictures(5, 1, channels=1)
    coloured = metrics.extract_features(grey.repeat(1, 3, 1, 1), registered)
    np.testing.assert_array_equal(metrics.extract_features(as_floats(grey), registered), coloured)


def test_floats_become_the_nearest_byte(registered):
    # Between bytes, and beyond the ends, as samples of models are.
    images = torch.tensor([-1.3, -1.0, 0.4 / 127.5 - 1.0, 0.6 / 127.5 - 1.0, 0.999, 1.0, 1.7])
    nearest = torch.tensor([0, 0, 0, 1, 255, 255, 255], dtype=torch.uint8)
    images, nearest = (x.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous() for x in (images, nearest))
    expected = metrics.extract_features(nearest, registered)
    np.testing.assert_array_equal(metrics.extract_features(images, registered), expected)


def test_inception_is_read_from_a_file_or_the_cache(tmp_path, monkeypatch):
    inception = torch_fidelity.feature_extractor_inceptionv3
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(ArgumentError, match=r"feature_weights: .*'inception-v3-compat'.*downloads nothing"):
        metrics.frechet_distance(as_floats(pictures(3, 1)), as_floats(pictures(3, 2)), "torch-fidelity")
    with monkeypatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda *a: None)
        torch.manual_seed(0)
        network = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    images = pictures(2, 1)
    expected = network(images)[0]
    file = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    file.parent.mkdir()
    torch.save(network.state_dict(), file)
    found = metrics.extract_features(as_floats(images), "torch-fidelity")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    file.rename(tmp_path / "inception.pth")
    given = {"feature_weights": tmp_path / "inception.pth"}
    np.testing.assert_array_equal(metrics.extract_features(images, "torch-fidelity", **given), found)


def test_weights_of_an_own_extractor_are_passed_on(registered, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"mine")
    seen = []

    class Watching(Tiny):
        def __init__(self, name, features_list, feature_extractor_weights_path=None, **options):
            super().__init__(name, features_list)
            seen.append(feature_extractor_weights_path)

    torch_fidelity.register_feature_extractor("koopflow-tests-watching", Watching)
    try:
        for weights in (tmp_path / "weights.pth", None):
            metrics.extract_features(pictures(2, 1), "koopflow-tests-watching", feature_weights=weights)
    finally:
        del torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY["koopflow-tests-watching"]
    assert seen == [str(tmp_path / "weights.pth"), None]


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(3, 3), ShapeError, r"expected images \(N, 1 or 3, H, W\)"),
        (torch.zeros(3, 2, 8, 8), ShapeError, r"expected images \(N, 1 or 3, H, W\), got \(3, 2, 8, 8\)"),
        (torch.full((3, 3, 8, 8), 255.0), ArgumentError, r"floats in \[-1, 1\].*got torch.float32 up to 255"),
        (torch.zeros(3, 3, 8, 8, dtype=torch.int64), ArgumentError, "bytes as uint8, got torch.int64"),
        (pictures(1, 1), ArgumentError, "at least two"),
    ],
)
def test_wrong_images_are_named(registered, images, error, message):
    with pytest.raises(error, match=message):
        metrics.frechet_distance(images, images, registered)


def test_wrong_extractors_are_named(registered, tmp_path, monkeypatch):
    images = pictures(3, 1)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    for name in ("vgg16", "clip-vit-b-32"):
        with pytest.raises(ArgumentError, match=f"feature_weights: .*{name}.*downloads nothing"):
            metrics.extract_features(images, name)
    with pytest.raises(ArgumentError, match="weights are one file, got 'dinov2-vit-s-14'"):
        metrics.extract_features(images, "dinov2-vit-s-14")
    with pytest.raises(FileNotFoundError, match="features: no file 'inception-v4'"):
        metrics.extract_features(images, "inception-v4")
    with pytest.raises(FileNotFoundError, match="feature_weights: no file"):
        metrics.extract_features(images, "torch-fidelity", feature_weights=tmp_path / "missing.pth")
    torch.save({}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="expected weights of inception-v3-compat; torch-fidelity says"):
        metrics.extract_features(images, "torch-fidelity", feature_weights=tmp_path / "other.pth")
    with pytest.raises(ArgumentError, match="feature_weights: expected None unless features names"):
        metrics.extract_features(images, torch.nn.Flatten(), feature_weights=tmp_path / "other.pth")
    with pytest.raises(ArgumentError, match="feature_weights: expected None unless features names"):
        metrics.frechet_distance(images, images, feature_weights=tmp_path / "other.pth")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    modules = __import__("sys").modules
    for name in [name for name in modules if name.split(".")[0] == "torch_fidelity"]:
        monkeypatch.setitem(modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'koopflow\[fidelity\]'"):
        metrics.extract_features(pictures(2, 1), "torch-fidelity")
