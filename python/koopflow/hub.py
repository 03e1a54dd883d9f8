"""Models as folders in the layout of the Hugging Face Hub: config.json, model.safetensors and a model card.

Folders need koopflow alone; repositories of the Hub need the package ``huggingface_hub`` (``koopflow[hub]``).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from . import _core
from ._arrays import as_path
from ._checkpointing import check_place
from .exceptions import ArgumentError, CheckpointError

if TYPE_CHECKING:
    from typing_extensions import Self

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
LIBRARY = "koopflow"
# A card with this line was written by koopflow and may be replaced; a card without it is kept.
MARK = "<!-- koopflow wrote this card, and replaces it as long as this line is here -->"
TAGS = ("flow-matching", "koopman-operator", "one-step-generation")
WORDS = {
    "student": "A Koopman student of a flow-matching model: samples from noise in one evaluation, and whole "
    "paths, the noise behind data, densities and a spectrum from the same linear generator",
    "teacher": "A flow-matching model: a velocity field whose flow carries noise to data",
}
PAPER = "Turan et al., [arXiv 2506.22304](https://arxiv.org/abs/2506.22304)"
# Options and facts of training that a card lists, in this order.
FACTS = {
    "resolved_options": (
        "basis",
        "generator",
        "fidelity",
        "observables",
        "coupling",
        "path",
        "dtype",
        "seed",
    ),
    "training": ("steps", "seconds", "trajectories", "teacher_evaluations", "stopped"),
}


class Report(Protocol):
    """An evaluation that can be put into a card, such as a :class:`koopflow.EvaluationReport`."""

    def to_markdown(self) -> str: ...


class HubFolder:
    """Base class of models with ``save`` and ``load`` that adds folders and repositories of the Hub."""

    # Kind of model in the file that ``save`` writes.
    _kind: ClassVar[str]

    def save_pretrained(
        self,
        folder: str | PathLike[str],
        *,
        report: Report | None = None,
        license: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        """Write the model, its options and a model card into a folder, each file atomically.

        ``model.safetensors`` is the file that ``save`` writes, and all that loading needs. ``config.json``
        describes it for readers. A ``README.md`` that koopflow did not write is kept.

        Parameters
        ----------
        folder : path
            Folder to write to, created if it does not exist.
        report : EvaluationReport, optional
            Result of ``evaluate``; the card shows its table.
        license : str, optional
            Licence of the weights, as the Hub names it: ``"mit"``, ``"cc-by-4.0"``, ...
        metadata : mapping, optional
            Further fields of the card's front matter, such as ``{"datasets": ["mnist"]}``. ``tags`` are added
            to koopflow's own.
        name : str, optional
            Title of the card and the name in its loading example; the folder's name by default.

        Raises
        ------
        ArgumentError
            If the folder is a file, or holds weights or a config of another library.
        TeacherError
            For an attached teacher, whose code and weights koopflow cannot save.
        """
        place = as_path(folder, "folder")
        if os.path.exists(place) and not os.path.isdir(place):
            raise ArgumentError(f"folder: expected a folder, got the file {place!r}")
        weights, config, card = (os.path.join(place, file) for file in (WEIGHTS, CONFIG, CARD))
        with _made(place):
            if os.path.exists(config):
                _checked_config(config, ArgumentError)
            check_place("folder", weights, f"a {self._kind}")
            self.save(weights)  # type: ignore[attr-defined]
        facts = json.loads(_core.describe_file(weights)[1])
        said = _config(type(self).__name__, facts, self.event_shape_)  # type: ignore[attr-defined]
        _write(config, json.dumps(said, indent=2, ensure_ascii=False) + "\n")
        if _replaceable(card):
            title = name or os.path.basename(os.path.abspath(place))
            fields = {"license": license, **(metadata or {})}
            _write(card, _card(title, self._kind, said, report, fields))

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        device: str = "cpu",
    ) -> Self:
        """Load a model written by :meth:`save_pretrained` or :meth:`push_to_hub`.

        Loading unpickles nothing and runs no code of the folder.

        Parameters
        ----------
        source : str or path
            Folder, or repository of the Hub, ``"user/name"``. A local folder of that name takes precedence.
        revision, token, cache_dir, force_download, local_files_only
            Options for a repository: branch, tag or commit; access token; folder of downloads; whether to
            download again; whether to use only earlier downloads. They are those of ``huggingface_hub``,
            whose errors are passed on unchanged.
        device : str, default "cpu"
            Device of the model.

        Raises
        ------
        FileNotFoundError, CheckpointError
            If there is no such folder, or its files are damaged, edited, of another library or of another
            kind of model.
        ImportError
            For a repository, if ``huggingface_hub`` is not installed.
        """
        place = as_path(source, "source")
        if not os.path.isdir(place):
            if os.path.isfile(place):
                raise ArgumentError(f"source: {place!r} is a file, which {cls.__name__}.load reads")
            if isinstance(source, PathLike) or place.count("/") != 1 or place[0] in "./~":
                raise FileNotFoundError(f"source: no folder {place!r}, and no repository 'user/name'")
            place = _hub(f"no folder {place!r}, and to look for it on the Hub").snapshot_download(
                place,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                allow_patterns=[CONFIG, WEIGHTS],
            )
        config, weights = os.path.join(place, CONFIG), os.path.join(place, WEIGHTS)
        for file in (config, weights):
            if not os.path.isfile(file):
                raise CheckpointError(f"{place}: expected a koopflow model, got no {os.path.basename(file)}")
        said = _checked_config(config, CheckpointError)
        model: Self = cls.load(weights, device=device)  # type: ignore[attr-defined]
        if said.get("options") != _options(json.loads(_core.describe_file(weights)[1])):
            raise CheckpointError(
                f"{config}: its options are not those of {WEIGHTS}: one of the two files was changed "
                f"({cls.__name__}.load reads {WEIGHTS} alone)"
            )
        return model

    def push_to_hub(
        self,
        repo_id: str,
        *,
        report: Report | None = None,
        license: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> str:
        """Upload the folder of :meth:`save_pretrained` to a repository of the Hub, created if necessary.

        The card of an existing repository is replaced, unless ``ignore_patterns="README.md"`` is passed.

        Parameters
        ----------
        repo_id : str
            Repository, ``"user/name"``.
        report, license, metadata
            As in :meth:`save_pretrained`.
        **options
            Options of ``huggingface_hub.ModelHubMixin.push_to_hub``, such as ``private``, ``token``,
            ``branch``, ``commit_message`` and ``create_pr``. Its errors are passed on unchanged.

        Returns
        -------
        str
            Address of the commit.

        Raises ``ImportError`` if ``huggingface_hub`` is not installed, and the errors of
        :meth:`save_pretrained`.
        """
        model = self

        class Upload(_hub("uploading a model").ModelHubMixin):  # type: ignore[misc]
            def _save_pretrained(self, save_directory: Path) -> None:
                # The last two parts of the mixin's folder are the name of the repository.
                name = "/".join(Path(save_directory).parts[-2:])
                model.save_pretrained(
                    save_directory, report=report, license=license, metadata=metadata, name=name
                )

        return str(Upload().push_to_hub(repo_id, **options))


def _hub(what: str) -> Any:
    """The package ``huggingface_hub``, which is imported only here."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError(f"{what} needs huggingface_hub: pip install 'koopflow[hub]'") from error


@contextlib.contextmanager
def _made(folder: str) -> Iterator[None]:
    """A context in which the folder exists. A new folder that is still empty after an error is removed."""
    new = not os.path.isdir(folder)
    os.makedirs(folder, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        raise


def _write(path: str, text: str) -> None:
    _core._write_atomically(path, text.encode())


def _config(model: str, facts: Mapping[str, Any], event_shape: tuple[int, ...]) -> dict[str, Any]:
    """Contents of config.json: the class that loads the folder, and the weights' header without its log."""
    history = {key: value for key, value in facts["history"].items() if key not in ("log", "loss", "config")}
    return {
        "library_name": LIBRARY,
        "koopflow_version": _core.__version__,
        "torch_version": torch.__version__,
        "model": model,
        "event_shape": list(event_shape),
        "options": _options(facts),
        "resolved_options": facts.get("config", facts["history"].get("config")),
        "training": history,
        "teacher": facts.get("header", {}).get("teacher"),
    }


def _options(facts: Mapping[str, Any]) -> Any:
    """The estimator's parameters among the facts in its file."""
    return facts.get("header", facts).get("params")


def _checked_config(path: str, error: type[ArgumentError | CheckpointError]) -> dict[str, Any]:
    """The contents of a config.json that koopflow wrote. Raises ``error`` for any other file."""
    argument = "folder: " if error is ArgumentError else ""
    try:
        said = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as cause:
        raise error(f"{argument}{path}: expected JSON of koopflow, got {cause}") from cause
    library = said.get("library_name") if isinstance(said, dict) else None
    if library != LIBRARY:
        got = "no library_name" if library is None else f"library_name {library!r}"
        raise error(f"{argument}{path}: expected library_name {LIBRARY!r}, got {got}")
    return dict(said)


def _replaceable(card: str) -> bool:
    """Whether there is no model card, or one that koopflow wrote."""
    try:
        return MARK in Path(card).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return True


# --- the model card -------------------------------------------------------------------------------


def _card(
    name: str, kind: str, said: Mapping[str, Any], report: Report | None, fields: dict[str, Any]
) -> str:
    """A README.md, with the front matter that the Hub reads; JSON values are YAML."""
    shape = said["event_shape"]
    conditioned, condition = _conditions(said)
    front = {"library_name": LIBRARY, "tags": [*TAGS, *(fields.pop("tags", None) or ())]}
    if len(shape) == 3 and shape[0] in (1, 3) and not conditioned:
        front["pipeline_tag"] = "unconditional-image-generation"
    front |= {key: value for key, value in fields.items() if value is not None}
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()]
    model, sizes = said["model"], ", ".join(map(str, shape))
    quality = "No measurements are given." if report is None else report.to_markdown()
    return "\n".join(
        [
            *("---", *lines, "---", MARK, "", f"# {name}", ""),
            *(f"{WORDS[kind]} ({PAPER}).", f"Samples are arrays `[N, {sizes}]`{conditioned}.", ""),
            *("## Load and sample", "", "```python", "# pip install 'koopflow[hub]'"),
            *(f"from koopflow import {model}", ""),
            f"{kind} = {model}.from_pretrained({json.dumps(name, ensure_ascii=False)})",
            f"x = {kind}.sample(16{condition})",
            *("```", "", "## How good it is", "", quality, ""),
            *("## How it was made", "", "| | |", "|---|---|", *_rows(said), ""),
        ]
    )


def _conditions(said: Mapping[str, Any]) -> tuple[str, str]:
    """What samples are conditioned on, in words and as an argument; empty for unconditional models."""
    options, taught = said["options"], (said["teacher"] or {}).get("conditioning")
    kind = taught if isinstance(taught, dict) else {}
    classes = options.get("num_classes") or kind.get("labels", {}).get("classes")
    dim = options.get("condition_dim") or kind.get("vector", {}).get("dim")
    if classes:
        return f" of classes 0 to {classes - 1}", ", condition=0"
    return (f" given vectors of length {dim}", f", condition=[0.0] * {dim}") if dim else ("", "")


def _rows(said: Mapping[str, Any]) -> Iterator[str]:
    """Rows of a table about the model, its training and its teacher."""
    for table, names in FACTS.items():
        known = said[table] or {}
        for name in (name for name in names if known.get(name) is not None):
            value = round(known[name], 1) if name == "seconds" else known[name]
            yield f"| {name.replace('_', ' ')} | {value} |"
    if said["teacher"]:
        yield f"| kind of teacher | {said['teacher'].get('kind')} |"
    yield f"| made with | koopflow {said['koopflow_version']}, torch {said['torch_version']} |"
