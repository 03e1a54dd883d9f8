"""``koopflow distill``: a teacher to a one-step student."""

from __future__ import annotations

from ..exceptions import DivergenceError
from ..students.distiller import KoopmanDistiller
from ..teachers.teacher import FlowTeacher
from .command import Command, Options, run_table
from .conditions import conditioning_of
from .errors import UsageError
from .files import input_file, write_text
from .inputs import FLAGS as FLAGS_OF_DATA
from .inputs import Data, data_table, load
from .options import keys_of, table
from .settings import Settings
from .training import FROM_COMMAND, Place, chosen, draw, finish, fit_options, started, without_warnings

FLAGS = (
    "observables",
    "basis",
    "generator",
    "fidelity",
    "width",
    "depth",
    "steps",
    "batch_size",
    "learning_rate",
    "trajectories",
    "max_seconds",
    "seed",
    "device",
)


def command() -> Command:
    """The command."""
    options = keys_of(KoopmanDistiller)
    named = [key.name for key in options]
    return Command(
        name="distill",
        summary="distil a teacher into a one-step student",
        description=(
            "Distils a teacher and writes student.safetensors, distill.toml (the settings, to repeat the\n"
            "run), and pictures of samples and of the training into the output folder."
        ),
        tables=[
            run_table("output", "teacher"),
            table("student", options),
            table("fit", keys_of(KoopmanDistiller.fit, leave_out=(*FROM_COMMAND, *named))),
            data_table(),
        ],
        flags={
            "--teacher": ("run", "teacher"),
            **FLAGS_OF_DATA,
            "--output": ("run", "output"),
            **{f"--{name.replace('_', '-')}": ("student", name) for name in FLAGS},
            "--trajectory-file": ("fit", "trajectory_file"),
        },
        run=run,
        resumes=True,
    )


def run(settings: Settings, options: Options) -> int:
    """Distil, save, draw."""
    path = input_file(settings["run"]["teacher"], "--teacher", "a teacher's file")
    keywords = settings["student"]
    teacher = FlowTeacher.load(path, device=keywords["device"])
    data = None
    if settings["data"]["source"] is not None:
        # A conditional teacher needs the condition of each of its data.
        settings.put("data", "labels", conditioning_of(teacher) != "none")
        data = load(settings["data"])
        if data.event_shape != teacher.event_shape:
            raise UsageError(
                f"--data: expected samples of shape {teacher.event_shape}, as the teacher's, "
                f"got {data.event_shape}"
            )
    student = KoopmanDistiller(**keywords)
    with started(settings, options, "student") as place:
        if place is None:
            return 0
        distil(student, teacher, data, settings, options, place)
    return 0


def distil(
    student: KoopmanDistiller,
    teacher: FlowTeacher,
    data: Data | None,
    settings: Settings,
    options: Options,
    place: Place,
) -> None:
    """Fit, save and draw."""
    keywords = fit_options(KoopmanDistiller.fit, settings, options, place)
    if data is not None:
        keywords |= {"data": data.train, "condition": data.train_labels}
    try:
        with without_warnings():
            student.fit(teacher, **keywords)
    except DivergenceError as error:
        if not student.__sklearn_is_fitted__():
            raise
        # The best student before it went wrong is still a student.
        student.save(place.model)
        raise DivergenceError(f"{error}; the best student before that is {place.model}") from error
    student.save(place.model)
    write_text(place.settings, settings.to_toml(chosen(settings["student"], student.config_)))
    finish(place, student.history_)
    draw(place, student.history_, student, None if data is None else data.held_out_labels)
