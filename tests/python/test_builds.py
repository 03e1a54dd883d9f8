"""The build backend: which torch a build takes, and what its wheel tells pip."""

from __future__ import annotations

import base64
import email
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import koopflow_build
import pytest
import torch_metadata
import torch_versions

import koopflow
from koopflow import _core


@pytest.fixture(autouse=True)
def _no_request(monkeypatch):
    monkeypatch.delenv("KOOPFLOW_TORCH", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    # Only environments that build have it.
    nothing = SimpleNamespace(
        get_requires_for_build_wheel=lambda _: [], get_requires_for_build_editable=lambda _: []
    )
    monkeypatch.setitem(sys.modules, "maturin", nothing)


def fields(metadata: str, name: str) -> list[str]:
    return email.message_from_string(metadata).get_all(name, [])


def write_wheel(folder: Path, name: str, version: str, *requirements: str) -> str:
    """A wheel of one module, as small as pip takes it."""
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {each}" for each in requirements]
    files = {
        f"{name}/__init__.py": "",
        f"{info}/METADATA": "\n".join(metadata) + "\n\nA page.\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    filename = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(folder / filename, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return filename


def pin(folder: Path, filename: str, torch: str) -> str:
    local = torch_metadata.label(torch)
    return torch_metadata.pin_wheel(
        folder,
        filename,
        lambda text: torch_metadata.pinned(text, torch, ["numpy>=1.24"], local=local),
        local=local,
    )


class TestTheTorchOfABuild:
    def test_an_isolated_build_takes_the_newest_or_what_it_is_told(self, monkeypatch):
        assert koopflow_build.get_requires_for_build_wheel()[0] == f"torch=={torch_versions.SUPPORTED[-1]}"
        monkeypatch.setenv("KOOPFLOW_TORCH", "2.13.0")
        assert koopflow_build.get_requires_for_build_wheel()[0] == "torch==2.13.0"
        assert koopflow_build.get_requires_for_build_editable()[0] == "torch==2.13.0"

    @pytest.mark.parametrize("version", ["2.10.0", "2.13", "newest"])
    def test_another_is_refused_by_a_sentence_that_lists_them(self, monkeypatch, version):
        monkeypatch.setenv("KOOPFLOW_TORCH", version)
        with pytest.raises(SystemExit) as refused:
            koopflow_build.get_requires_for_build_wheel()
        assert f"torch {version};" in str(refused.value)
        assert all(each in str(refused.value) for each in torch_versions.SUPPORTED)

    def test_without_isolation_it_is_the_one_that_is_there(self, monkeypatch):
        assert torch_versions.installed() == _core.TORCH_VERSION
        other = next(each for each in torch_versions.SUPPORTED if each != _core.TORCH_VERSION)
        monkeypatch.setenv("KOOPFLOW_TORCH", other)
        with pytest.raises(SystemExit, match=f"asks for torch {other}, .* has torch {_core.TORCH_VERSION}"):
            torch_versions.installed()

    def test_the_compiler_is_the_users_own_with_more_flags(self, monkeypatch, tmp_path):
        monkeypatch.setenv("CXX", f"{sys.executable} -c 'import sys; print(sys.argv[1:])'")
        script = koopflow_build._newer_torch(tmp_path)["CXX"]
        done = subprocess.run(
            [script, "-std=c++17", "a file.cpp"], capture_output=True, text=True, check=True
        )
        header = Path(torch_versions.__file__).with_name("torch_stand_ins.h")
        expected = ["-std=c++17", "a file.cpp", "-std=c++20", "-include", str(header)]
        assert done.stdout.strip() == str(expected)
        assert header.is_file()

    def test_the_default_compiler_is_not_the_script_itself(self, monkeypatch, tmp_path):
        script = Path(koopflow_build._newer_torch(tmp_path)["CXX"])
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout


class TestWheels:
    def test_metadata_pins_torch_and_names_it_in_the_version(self):
        text = "Metadata-Version: 2.4\nName: koopflow\nVersion: 0.1.0\nRequires-Dist: x ; extra == 'test'\n"
        text += "\nVersion: 3\n"
        pinned = torch_metadata.pinned(text, "2.14.1", ["numpy>=1.24"], local="+torch2.14")
        assert fields(pinned, "Version") == ["0.1.0+torch2.14"]
        assert fields(pinned, "Requires-Dist") == ["torch==2.14.1", "numpy>=1.24", "x ; extra == 'test'"]
        assert email.message_from_string(pinned).get_payload() == "Version: 3\n"

    def test_the_record_is_that_of_the_files(self, tmp_path):
        name = pin(tmp_path, write_wheel(tmp_path, "koopflow", "0.1.0"), "2.13.0")
        assert (
            [each.name for each in tmp_path.iterdir()]
            == [name]
            == ["koopflow-0.1.0+torch2.13-py3-none-any.whl"]
        )
        with zipfile.ZipFile(tmp_path / name) as archive:
            folders = {each.split("/")[0] for each in archive.namelist()}
            assert folders == {"koopflow", "koopflow-0.1.0+torch2.13.dist-info"}
            record = archive.read("koopflow-0.1.0+torch2.13.dist-info/RECORD").decode().splitlines()
            rows = [line.split(",") for line in record]
            assert [path for path, *_ in rows] == archive.namelist()
            for path, digest, size in rows[:-1]:
                data = archive.read(path)
                expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
                assert (digest, size) == (f"sha256={expected}", str(len(data)))
            assert rows[-1][1:] == ["", ""]

    @pytest.mark.parametrize(
        ("wanted", "got"), [("torch", "2.15"), ("torch==2.13.0", "2.13"), ("torch<2.13", "2.12")]
    )
    def test_pip_finds_the_wheel_that_fits_the_torch(self, tmp_path, wanted, got):
        write_wheel(tmp_path, "numpy", "2.0")
        for version in torch_versions.SUPPORTED:
            write_wheel(tmp_path, "torch", version)
            pin(tmp_path, write_wheel(tmp_path, "koopflow", "0.1.0"), version)
        command = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
            "--dry-run",
        ]
        command += ["--ignore-installed", "--no-index", "--find-links", str(tmp_path), "--report", "-"]
        done = subprocess.run([*command, "koopflow", wanted], capture_output=True, text=True, check=True)
        chosen = {
            each["metadata"]["name"]: each["metadata"]["version"]
            for each in json.loads(done.stdout)["install"]
        }
        assert chosen["koopflow"] == f"0.1.0+torch{got}"
        assert chosen["torch"].startswith(got)

    def test_a_source_distribution_says_that_its_requirements_come_later(self, tmp_path):
        (tmp_path / "PKG-INFO").write_text(
            "Metadata-Version: 2.4\nName: koopflow\nVersion: 0.1.0\n\nA page.\n"
        )
        (tmp_path / "a.py").write_text("a = 1\n")
        path = tmp_path / "koopflow-0.1.0.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name in ("PKG-INFO", "a.py"):
                archive.add(tmp_path / name, f"koopflow-0.1.0/{name}")
        torch_metadata.mark_sdist_dynamic(path)
        with tarfile.open(path) as archive:
            assert archive.extractfile("koopflow-0.1.0/a.py").read() == b"a = 1\n"
            metadata = archive.extractfile("koopflow-0.1.0/PKG-INFO").read().decode()
        assert fields(metadata, "Dynamic") == ["Requires-Dist"]
        assert fields(metadata, "Version") == ["0.1.0"]

    def test_the_package_has_cargos_version(self):
        cargo = (Path(__file__).parents[2] / "Cargo.toml").read_text()
        assert koopflow.__version__ == _core.__version__
        assert f'\nversion = "{koopflow.__version__}"\n' in cargo
