"""``koopflow train-teacher``: data to a flow-matching teacher."""

from __future__ import annotations

from ..teachers.teacher import FlowTeacher
from .command import Command, Options, run_table
from .files import write_text
from .inputs import FLAGS as FLAGS_OF_DATA
from .inputs import Data, data_table, load
from .options import keys_of, table
from .settings import Settings
from .training import FROM_COMMAND, Place, chosen, draw, finish, fit_options, started, without_warnings

FLAGS = (
    "network",
    "width",
    "depth",
    "coupling",
    "path",
    "steps",
    "batch_size",
    "learning_rate",
    "num_classes",
    "max_seconds",
    "seed",
    "device",
)


def command() -> Command:
    """The command."""
    options = keys_of(FlowTeacher, leave_out=("event_shape",))
    named = [key.name for key in options]
    return Command(
        name="train-teacher",
        summary="train a flow-matching teacher on data",
        description=(
            "Trains a teacher and writes teacher.safetensors, train-teacher.toml (the settings, to repeat\n"
            "the run), and pictures of samples and of the training into the output folder."
        ),
        tables=[
            run_table("output"),
            table("teacher", options),
            table("fit", keys_of(FlowTeacher.fit, leave_out=(*FROM_COMMAND, *named))),
            data_table(),
        ],
        flags={
            **FLAGS_OF_DATA,
            "--output": ("run", "output"),
            "--labels": ("data", "labels"),
            **{f"--{name.replace('_', '-')}": ("teacher", name) for name in FLAGS},
        },
        run=run,
        resumes=True,
    )


def run(settings: Settings, options: Options) -> int:
    """Train, save, draw."""
    if settings["teacher"]["num_classes"] is not None or settings["teacher"]["condition_dim"] is not None:
        settings.put("data", "labels", True)
    data = load(settings["data"])
    keywords = settings["teacher"]
    given = {name for name in ("num_classes", "condition_dim") if keywords[name] is not None}
    teacher = FlowTeacher(data.event_shape, **(keywords if given else {**keywords, **data.conditioning}))
    with started(settings, options, "teacher") as place:
        if place is None:
            return 0
        train(teacher, data, settings, options, place)
    return 0


def train(teacher: FlowTeacher, data: Data, settings: Settings, options: Options, place: Place) -> None:
    """Fit, save and draw."""
    shape = " x ".join(map(str, data.event_shape))
    print(f"{len(data.train)} samples of {shape}, {len(data.held_out)} held out")
    keywords = fit_options(FlowTeacher.fit, settings, options, place)
    with without_warnings():
        teacher.fit(data.train, condition=data.train_labels, **keywords)
    teacher.save(place.model)
    write_text(place.settings, settings.to_toml(chosen(settings["teacher"], teacher.history["config"])))
    finish(place, teacher.history)
    draw(place, teacher.history, teacher, data.held_out_labels)
