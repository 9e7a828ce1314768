"""Distil with several settings and say which was best: any option of `songsight distill`, tried by Ray Tune.

    songsight sweep --recordings recordings.parquet --out sweep --set lr=1e-4,3e-4 --set head=linear,mlp
    songsight sweep --recordings recordings.parquet --gallery gallery --out sweep --preset text-types

All options of distill are options here, for all trials; `--set` gives those that differ. Each trial is distill's own
run, below one MLflow run of the sweep: its model is in a folder of `--out` and registered. The best one's version takes
the alias `candidate`, and `champion` if `--promote-if` says so. The table is printed and logged.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from distill.train import launch
from jobs import distill
from jobs.distilling import promotion, resume
from jobs.shared import cluster, tracking
from jobs.shared import options as opts
from songsight.errors import UserError
from songsight.store import checkpoints, lease, urls

# The paper's ablation of what text sound is pulled to (arXiv 2602.00681), in its order.
PRESETS = {
    "text-types": [
        ("common only", {"text_types": "com:1"}),
        ("scientific only", {"text_types": "sci:1"}),
        ("taxonomic only", {"text_types": "taxon:1"}),
        ("mixed", {"text_types": "sci:1,com:1,taxon:1,sci_com:1,taxon_com:1"}),
    ]
}
Choice = tuple[dict[str, str], dict[str, str]]
"""What the table shows of it, and the options that it sets."""
_NOT_SWEPT = ("recordings", "out", "register_as", "promote_if", "gallery", "eval_recordings")


@dataclass(frozen=True)
class Options(distill.Options):
    """Options of `songsight sweep`: those of distill, and which of them to try with what."""

    set: tuple[str, ...] = ()
    """option=value,value: what to try, each with each; values that hold commas are parted by | instead"""
    preset: Literal["text-types"] | None = None
    """a known table: text-types is the paper's ablation of common, scientific, taxonomic and mixed texts"""
    samples: int | None = None
    """try only so many of the combinations, drawn by the seed; all of them if not given"""
    metric: str | None = None
    """held-out measure to sort by; val_audio_to_image_mAP, or without a gallery val_text_mAP"""
    concurrent: int | None = None
    """trials side by side; as many as the cluster's CPUs and GPUs have room for if not given, and at most that"""


@dataclass(frozen=True)
class Trial:
    """One combination.

    Attributes:
        settings: what differs from trial to trial, as it is shown in the table.
        options: of distill.
    """

    settings: dict[str, str]
    options: distill.Options

    @property
    def title(self) -> str:
        """The settings in one line."""
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())


def main(options: Options) -> list[dict[str, Any]]:
    """Runs the trials, prints and logs the table.

    Returns:
        a row a trial, in the table's order: `settings`, `run_id`, `out`, the held-out measures, and `error` (empty, or
        why the trial failed).
    """
    opts.require_positive(samples=options.samples, concurrent=options.concurrent)
    metric = promotion.metric_name(
        options.metric or ("val_audio_to_image_mAP" if options.gallery else "val_text_mAP"), "--metric"
    )
    state_url = urls.join(options.out, ".sweep")
    options = opts.replace(options, resume.begun_with(opts.Chosen.of(options), state_url))
    chosen = opts.Chosen.of(options)
    planned = trials(options)
    rule = _check(planned, options.recordings, metric, options.gallery, options.promote_if)
    with lease.held(options.out):
        return _sweep(options, chosen, planned, metric, rule)


def _sweep(
    options: Options, chosen: opts.Chosen, planned: list[Trial], metric: str, rule: promotion.Rule | None
) -> list[dict[str, Any]]:
    """The same with trials that are planned, while no other run is at `--out`."""
    state_url = urls.join(options.out, ".sweep")
    stopped = resume.unfinished(state_url, chosen, {}, "sweep")
    cluster.connect()
    cluster.require_shared("MLFLOW_TRACKING_URI", tracking.store())
    with tracking.run("sweep", chosen.values | {"set": " ".join(options.set)}, going_on=stopped) as run:
        resume.begin(state_url, chosen, {}, run.info.run_id)
        side_by_side = min(_room(planned), options.concurrent or len(planned))
        opts.note(f"{len(planned)} trials, {side_by_side} at a time")
        rows = _run(planned, side_by_side, run.info.run_id)
        if not options.preset:
            rows.sort(key=lambda row: -row.get(metric, float("-inf")))
        lease.check()
        best = _keep_table(rows, metric)
        measures = {name: best[name] for name in promotion.METRICS if name in best}
        became = promotion.set_aliases(options.register_as, best["version"], measures, rule)
        opts.note(f"models:/{options.register_as}/{best['version']}: {became}")
    print(f"best: {best['title']}: {urls.join(options.out, best['out'])}")
    return rows


def trials(options: Options) -> list[Trial]:
    """Every combination of the settings, or a draw of them.

    Raises:
        UserError: `--set` names no option of distill, one that cannot be swept, or a value of the wrong type.
    """
    combinations = list(itertools.product(*_axes(options.preset, options.set)))
    if options.samples and options.samples < len(combinations):
        kept = sorted(random.Random(options.seed).sample(range(len(combinations)), options.samples))
        combinations = [combinations[i] for i in kept]
    made = []
    for number, combination in enumerate(combinations):
        shown = {name: value for show, _ in combination for name, value in show.items()}
        settings = {name: value for _, given in combination for name, value in given.items()}
        made.append(Trial(shown, _options(options, settings, f"trial-{number:03}")))
    return made


def _axes(preset: str | None, settings: tuple[str, ...]) -> list[list[Choice]]:
    """What differs from trial to trial, each with its choices."""
    axes: list[list[Choice]] = []
    if preset:
        axes.append([({"texts": title}, given) for title, given in PRESETS[preset]])
    known = [field.name for field in dataclasses.fields(distill.Options) if field.name not in _NOT_SWEPT]
    for text in settings:
        name, equals, listed = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        values = [value.strip() for value in listed.split("|" if "|" in listed else ",")]
        if not equals or not all(values):
            raise UserError(f"--set {text}: should be an option and its values, such as lr=1e-4,3e-4")
        if name not in known:
            raise UserError(f"--set {text}: no option {name!r} to try values of (options: {', '.join(known)})")
        axes.append([({name: value}, {name: value}) for value in values])
    if not axes:
        raise UserError("nothing to try: give --set lr=1e-4,3e-4 or --preset text-types")
    named = [name for axis in axes for name in axis[0][1]]
    if twice := {name for name in named if named.count(name) > 1}:
        raise UserError(f"--set {min(twice)}: is given twice")
    return axes


def _options(options: Options, settings: dict[str, str], folder: str) -> distill.Options:
    """The options of one trial; its values are read as distill's own command line reads them.

    Paths become absolute: Ray Tune runs a trial in a folder of its own.
    """
    words = ["--recordings", options.recordings, "--out", options.out]
    for name, value in settings.items():
        if isinstance(getattr(options, name), bool):
            if value.lower() not in ("true", "false"):
                raise UserError(f"--set {name}={value}: should be true or false")
            words.append(opts.flag(name) if value.lower() == "true" else "--no-" + name.replace("_", "-"))
        else:
            words.append(f"{opts.flag(name)}={value}")
    try:
        read = opts.parse(distill.Options, words, "songsight sweep", "")
    except UserError as error:
        raise UserError(f"--set: {error}") from None
    fields = [field.name for field in dataclasses.fields(distill.Options)]
    values = {name: getattr(read if name in settings else options, name) for name in fields}
    return distill.Options(
        **values
        | {
            "recordings": urls.absolute(options.recordings),
            "out": urls.absolute(urls.join(options.out, folder)),
            "gallery": urls.absolute(options.gallery) if options.gallery else None,
            "noise": urls.absolute(values["noise"]) if values["noise"] else None,
            "teacher": checkpoints.portable(values["teacher"], "--teacher"),
            "student": checkpoints.portable(values["student"], "--student"),
        }
    )


def _check(
    planned: list[Trial], recordings: str, metric: str, gallery: str | None, promote_if: str | None
) -> promotion.Rule | None:
    """What decides on the champion; finds before any training what would fail in each trial.

    Raises:
        UserError: naming the option.
    """
    from jobs.distilling import splits  # imports pyarrow

    table = splits.read(recordings)
    held_out = False
    for one in (trial.options for trial in planned):
        distill.check(one)
        found = splits.for_training(table, one.recordings, one.batch_size, one.eval_recordings, one.seed)
        held_out = len(found.val) > 0
    promotion.require_measured(metric, "--metric", gallery, held_out)
    return promotion.read_rule(promote_if, gallery, held_out)


def _room(planned: list[Trial]) -> int:
    """How many trials the cluster holds side by side, at least 1: of those that take the most of it.

    A trial's training workers keep their CPUs to the end, and the tasks that decode for them need some too: with as
    much again for those no trial waits for another's workers for ever.
    """
    import ray

    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 1), resources.get("GPU", 0)
    rooms = []
    for one in (trial.options for trial in planned):
        workers = distill.worker_range(one.workers)[1]
        workers_cpus = launch.cpus_per_worker(cpus, workers) * workers
        rooms.append(cpus / (workers_cpus + max(1, workers_cpus)))
        if one.gpus_per_worker:
            rooms.append(gpus / (one.gpus_per_worker * workers))
    return max(1, int(min(rooms)))


def _run(planned: list[Trial], side_by_side: int, parent: str) -> list[dict[str, Any]]:
    """Runs the trials below an MLflow run; returns a row of each, see `main`."""
    from jobs.distilling import tune  # imports Ray

    environment = {"MLFLOW_TRACKING_URI": tracking.store()}
    environment |= {name: os.environ[name] for name in ("RAY_ADDRESS", "SONGSIGHT_GIT_COMMIT") if os.environ.get(name)}
    train = partial(_train, options=[trial.options for trial in planned], environment=environment, parent=parent)
    ended = tune.run([trial.title for trial in planned], train, side_by_side)
    return [
        {"settings": trial.settings, "title": trial.title, "out": trial.options.out.rsplit("/", 1)[-1], "run_id": None}
        | outcome
        for trial, outcome in zip(planned, ended, strict=True)
    ]


def _train(number: int, options: list[distill.Options], environment: dict[str, str], parent: str) -> dict[str, Any]:
    """The trial with a number: distill's own job, below the sweep's MLflow run."""
    os.environ.update(environment)  # Ray's workers do not have this process's
    made = distill.train(options[number], parent=parent)
    return made.measures | {"run_id": made.run_id, "version": made.version}


def _keep_table(rows: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    """Logs and prints the table; returns the best trial's row.

    Raises:
        UserError: all trials failed.
    """
    import mlflow

    text = table(rows, metric)
    mlflow.log_text(text, "table.md")
    mlflow.log_dict({"metric": metric, "trials": rows}, "table.json")
    done = [row for row in rows if not row["error"]]
    mlflow.log_metrics({"trials": len(rows), "failed": len(rows) - len(done)})
    print(text)
    if not done:
        raise UserError(f"all {len(rows)} trials failed; the first: {rows[0]['error']}")
    best = max(done, key=lambda row: row.get(metric, float("-inf")))
    if metric in best:  # not there where none of the held-out recordings can be decoded
        mlflow.log_metric(f"best_{metric}", best[metric])
    return best


def table(rows: list[dict[str, Any]], metric: str) -> str:
    """The rows as Markdown: the settings, the measure that counts, the other measures, the run."""
    settings = list(rows[0]["settings"])
    others = [name for name in promotion.METRICS if name != metric and any(name in row for row in rows)]
    measures = [metric, *others]
    lines = [
        "| " + " | ".join([*settings, *measures, "run"]) + " |",
        "|" + "---|" * (len(settings) + len(measures) + 1),
    ]
    for row in rows:
        cells = [row["settings"][name].replace("|", "\\|") for name in settings]
        cells += [f"{row[name]:.3f}" if name in row else "–" for name in measures]
        cells.append(f"failed: {row['error']}" if row["error"] else str(row["run_id"]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    from jobs.cli import command

    command("sweep")
