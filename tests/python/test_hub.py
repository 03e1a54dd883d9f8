"""Folders and repositories of the Hub. Nothing here reaches the network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from koopflow import FlowTeacher, KoopmanDistiller, Training, UNet
from koopflow.exceptions import ArgumentError, CheckpointError, NotFittedError, TeacherError

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(64, 2)).astype("f4")
SMALL = {"width": 8, "depth": 1, "steps": 3}
STUDENT = {**SMALL, "observables": 4, "trajectories": 64}
SMALL_UNET = UNet(channels=4, multipliers=(1, 2), groups=4)
FILES = {"README.md", "config.json", "model.safetensors"}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def models() -> dict[str, FlowTeacher | KoopmanDistiller]:
    def distilled(teacher, **options):
        return KoopmanDistiller(**{**STUDENT, **options}).fit(teacher, progress=False)

    def trained(data, condition=None, **options):
        return FlowTeacher(data.shape[1:], **options).fit(data, condition, progress=False)

    images = RNG.normal(size=(8, 1, 8, 8)).astype("f4")
    labels = trained(DATA, np.arange(64) % 3, num_classes=3, label_dropout=0.1, **SMALL)
    vectors = trained(DATA, DATA, condition_dim=2, **SMALL)
    of_images = trained(images, network=SMALL_UNET, steps=1, batch_size=4)
    plane = FlowTeacher.gaussian([100.0, -1.0], np.eye(2), dtype="float64")
    unet = {"unet": SMALL_UNET, "steps": 1, "batch_size": 4, "trajectories": 16, "observables": None}
    return {
        "gaussian": plane,
        "empirical": FlowTeacher.empirical(DATA),
        "labels": labels,
        "guided": labels.guided(2.0),
        "vectors": vectors,
        "images": of_images,
        "student": distilled(plane, dtype="float64", training=Training(ema_decay=0.9)),
        "dense": distilled(plane).to_dense(),
        "student of labels": distilled(labels),
        "student of vectors": distilled(vectors),
        "hierarchy": distilled(of_images, basis="hierarchy", **unet),
    }


def sampled(model):
    noise = np.random.default_rng(1).normal(size=(2, *model.event_shape_)).astype("f4")
    teacher = getattr(model, "teacher_", {}).get("conditioning", "none")
    kind = str(model.get_params()) + str(teacher)
    given = {}
    if "'num_classes': 3" in kind or "'classes': 3" in kind:
        given = {"condition": 1}
    elif "'condition_dim': 2" in kind or "'dim': 2" in kind:
        given = {"condition": [0.5, 0.5]}
    return model.sample(x0=noise, **given)


KINDS = ["gaussian", "empirical", "labels", "guided", "vectors", "images", "student", "dense"]
KINDS += ["student of labels", "student of vectors", "hierarchy"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_holds_the_model_and_a_card_whose_code_runs(kind, models, tmp_path):
    model, folder = models[kind], tmp_path / "some where" / kind
    model.save_pretrained(folder, name=str(folder))
    assert set(os.listdir(folder)) == FILES
    other = type(model).from_pretrained(folder)
    np.testing.assert_array_equal(sampled(other), sampled(model))
    assert other.get_params() == model.get_params()
    assert other.history_ == model.history_
    # What the card tells a person to do.
    card = (folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["x"].shape == (16, *model.event_shape_)
    assert f"`[N, {', '.join(map(str, model.event_shape_))}]`" in card
    said = json.loads((folder / "config.json").read_text())
    assert (said["library_name"], said["model"]) == ("koopflow", type(model).__name__)
    assert tuple(said["event_shape"]) == model.event_shape_
    # The weights are the file of save.
    alone = type(model).load(folder / "model.safetensors")
    np.testing.assert_array_equal(sampled(alone), sampled(model))


def test_the_card_has_the_report_and_front_matter_that_the_hub_reads(models, tmp_path):
    student = models["student"]
    report = student.evaluate(models["gaussian"], models["gaussian"].sample(40), n=20)
    fields = {"datasets": ["a data set"], "tags": ["toy"], "language": None}
    student.save_pretrained(tmp_path / "moons", report=report, license="cc-by-4.0", metadata=fields)
    card = huggingface_hub.ModelCard.load(tmp_path / "moons" / "README.md")
    assert card.data.to_dict() == {
        "library_name": "koopflow",
        "license": "cc-by-4.0",
        "datasets": ["a data set"],
        "tags": ["flow-matching", "koopman-operator", "one-step-generation", "toy"],
    }
    assert "# moons\n" in card.text
    rows = {row.split("|")[1].strip(): row for row in card.text.splitlines() if row.startswith("| ")}
    assert f"{report.endpoint_error:.4f}" in rows["endpoint error"]
    assert f"{report.floor.energy:.4f}" in rows["energy distance"]
    calls = [str(report.student_evaluations), str(report.teacher_evaluations)]
    assert [cell.strip() for cell in rows["evaluations"].split("|")[2:6:2]] == [calls[0], calls[1]]
    assert rows["observables"].split("|")[2].strip() == "4"
    models["images"].save_pretrained(tmp_path / "images")
    card = huggingface_hub.ModelCard.load(tmp_path / "images" / "README.md")
    assert card.data.pipeline_tag == "unconditional-image-generation"
    assert card.data.license is None


def test_own_cards_are_renewed_and_others_are_left(models, tmp_path):
    models["gaussian"].save_pretrained(tmp_path, name="before")
    models["gaussian"].save_pretrained(tmp_path, name="after")
    card = tmp_path / "README.md"
    assert "# after\n" in card.read_text()
    card.write_text("# My words\n")
    (tmp_path / "notes.txt").write_text("mine")
    models["gaussian"].save_pretrained(tmp_path)
    assert card.read_text() == "# My words\n"
    assert set(os.listdir(tmp_path)) == {*FILES, "notes.txt"}
    FlowTeacher.from_pretrained(str(tmp_path))


def test_what_is_not_koopflows_is_neither_replaced_nor_left_behind(models, tmp_path):
    student = models["student"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArgumentError, match="folder: expected a folder, got the file"):
        student.save_pretrained(tmp_path / "file")
    for file, content, match in (
        ("config.json", '{"model_type": "bert"}', "folder: .*config.json: .*got no library_name"),
        ("config.json", '{"library_name": "diffusers"}', "got library_name 'diffusers'"),
        ("config.json", "\xff{", "folder: .*config.json: expected JSON of koopflow"),
        ("model.safetensors", "weights", "folder: expected a new file or one of a student"),
    ):
        folder = tmp_path / "theirs"
        folder.mkdir()
        (folder / file).write_text(content, encoding="latin-1")
        with pytest.raises(ArgumentError, match=match):
            student.save_pretrained(folder)
        assert os.listdir(folder) == [file]
        assert (folder / file).read_text(encoding="latin-1") == content
        shutil.rmtree(folder)
    models["gaussian"].save_pretrained(tmp_path / "teacher")
    with pytest.raises(ArgumentError, match="expected a new file or one of a student, got .* of a teacher"):
        student.save_pretrained(tmp_path / "teacher")
    attached = FlowTeacher.from_torch(lambda t, x: -x, (2,))
    for model, error in ((attached, TeacherError), (KoopmanDistiller(), NotFittedError)):
        with pytest.raises(error):
            model.save_pretrained(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def _damaged(folder, damage):
    config, weights = folder / "config.json", folder / "model.safetensors"
    said = json.loads(config.read_text())
    if damage == "no config":
        config.unlink()
    elif damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "other weights":
        FlowTeacher.gaussian([0.0, 0.0], np.eye(2)).save(weights)
    elif damage == "edited":
        config.write_text(json.dumps({**said, "options": {**said["options"], "observables": 99}}))
    else:
        config.write_text({"foreign": '{"library_name": "timm"}', "list": "[]", "cut": "{"}[damage])


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        ("no config", "expected a koopflow model, got no config.json"),
        ("no weights", "expected a koopflow model, got no model.safetensors"),
        ("cut weights", "model.safetensors"),
        ("other weights", "model.safetensors: holds a teacher"),
        ("edited", "its options are not those of model.safetensors"),
        ("foreign", "expected library_name 'koopflow', got library_name 'timm'"),
        ("list", "expected library_name 'koopflow', got no library_name"),
        ("cut", "config.json: expected JSON of koopflow"),
    ],
)
def test_damaged_and_foreign_folders_are_named(damage, match, models, tmp_path):
    models["student"].save_pretrained(tmp_path)
    _damaged(tmp_path, damage)
    with pytest.raises(CheckpointError, match=match) as raised:
        KoopmanDistiller.from_pretrained(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_folders_that_are_none_are_named(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in (tmp_path / "no", "./no", "no", "a/b/c", "~/no"):
        with pytest.raises(FileNotFoundError, match="source: no folder .*no'|source: no folder 'a/b/c'"):
            KoopmanDistiller.from_pretrained(source)
    models["student"].save("student.safetensors")
    with pytest.raises(ArgumentError, match=r"is a file, which KoopmanDistiller\.load reads"):
        KoopmanDistiller.from_pretrained("student.safetensors")
    with pytest.raises(ArgumentError, match="source: expected a path, got 3"):
        KoopmanDistiller.from_pretrained(3)
    # A folder comes before the repository of its name.
    models["student"].save_pretrained("user/name")
    assert KoopmanDistiller.from_pretrained("user/name").n_observables_ == models["student"].n_observables_


def test_without_the_package_folders_work_and_repositories_say_what_to_install(models, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    student = models["student"]
    student.save_pretrained(tmp_path / "student")
    other = KoopmanDistiller.from_pretrained(tmp_path / "student")
    np.testing.assert_array_equal(sampled(other), sampled(student))
    for call in (lambda: KoopmanDistiller.from_pretrained("user/name"), lambda: student.push_to_hub("a/b")):
        with pytest.raises(ImportError, match=r"pip install 'koopflow\[hub\]'"):
            call()


def test_importing_koopflow_does_not_import_the_package():
    code = "import sys, koopflow; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


# --- repositories ---------------------------------------------------------------------------------


def test_a_repository_comes_from_the_cache(models, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--user--moons"
    models["student"].save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for options in ({}, {"local_files_only": True}, {"revision": commit}):
        other = KoopmanDistiller.from_pretrained("user/moons", cache_dir=tmp_path, **options)
        np.testing.assert_array_equal(sampled(other), sampled(models["student"]))
    with pytest.raises(FileNotFoundError):
        KoopmanDistiller.from_pretrained("user/other", cache_dir=tmp_path)


class FakeHub:
    """In the place of ``HfApi``: a folder instead of a server."""

    def __init__(self, root, token=None):
        self.root, self.token, self.asked = root, token, []

    def create_repo(self, repo_id, **options):
        self.asked.append(options)
        full = repo_id if "/" in repo_id else f"me/{repo_id}"
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{full}")

    def upload_folder(self, *, repo_id, folder_path, **options):
        self.asked.append(options)
        shutil.copytree(folder_path, self.root / repo_id)
        return f"https://huggingface.co/{repo_id}/commit/1"


@pytest.mark.parametrize("kind", ["student", "labels"])
def test_what_is_pushed_is_the_folder(kind, models, tmp_path, monkeypatch):
    made: list[FakeHub] = []

    def api(**options):
        made.append(FakeHub(tmp_path, **options))
        return made[-1]

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", api)
    model = models[kind]
    address = model.push_to_hub("moons", license="mit", token="hf_x", private=True, commit_message="First")
    assert address == "https://huggingface.co/me/moons/commit/1"
    (hub,) = made
    assert hub.token == "hf_x"
    assert (hub.asked[0]["private"], hub.asked[1]["commit_message"]) == (True, "First")
    folder = tmp_path / "me" / "moons"
    assert set(os.listdir(folder)) == FILES
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.license == "mit"
    assert f'{type(model).__name__}.from_pretrained("me/moons")' in card.text
    np.testing.assert_array_equal(sampled(type(model).from_pretrained(folder)), sampled(model))
