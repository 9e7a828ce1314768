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
import tempfile
from dataclasses import dataclass
from typing import Any, Literal

from jobs import distill
from jobs.distilling import promotion
from jobs.shared import options as opts
from songsight.errors import UserError

# The paper's ablation of what text sound is pulled to (arXiv 2602.00681), in its order.
PRESETS = {
    "text-types": [
        ("common only", {"text_types": "com:1"}),
        ("scientific only", {"text_types": "sci:1"}),
        ("taxonomic only", {"text_types": "taxon:1"}),
        ("mixed", {"text_types": "sci:1,com:1,taxon:1,sci_com:1,taxon_com:1"}),
    ]
}
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
    from jobs.distilling import resume
    from jobs.shared import cluster, tracking
    from songsight.store import urls

    state_url = urls.join(options.out, ".sweep")
    options = resume.as_begun(options, state_url)
    planned = trials(options)
    rule = _check(options, planned, metric)
    urls.require_writable(options.out, "--out")
    stopped = resume.unfinished(state_url, options, {}, "sweep")
    cluster.connect()
    cluster.require_shared("MLFLOW_TRACKING_URI", tracking.store())
    given = opts.as_dict(options) | {"set": " ".join(options.set)}
    with tracking.run("sweep", given, going_on=stopped) as run:
        resume.begin(state_url, options, {}, run.info.run_id)
        side_by_side = min(_room(planned), options.concurrent or len(planned))
        opts.note(f"{len(planned)} trials, {side_by_side} at a time")
        rows = _run(planned, side_by_side, run.info.run_id)
        if not options.preset:
            rows.sort(key=lambda row: -row.get(metric, float("-inf")))
        text = table(rows, metric)
        import mlflow

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
        measures = {name: best[name] for name in promotion.METRICS if name in best}
        became = promotion.enter(options.register_as, best["version"], measures, rule)
        opts.note(f"models:/{options.register_as}/{best['version']}: {became}")
    print(f"best: {best['title']}: {urls.join(options.out, best['out'])}")
    return rows


def trials(options: Options) -> list[Trial]:
    """Every combination of the settings, or a draw of them.

    Raises:
        UserError: `--set` names no option of distill, one that cannot be swept, or a value of the wrong type.
    """
    axes: list[list[tuple[dict[str, str], dict[str, str]]]] = []  # of each: (what is shown, what is set)
    if options.preset:
        axes.append([({"texts": title}, settings) for title, settings in PRESETS[options.preset]])
    fields = {field.name: field for field in dataclasses.fields(distill.Options)}
    for text in options.set:
        name, equals, listed = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        values = [value.strip() for value in listed.split("|" if "|" in listed else ",")]
        if not equals or not all(values):
            raise UserError(f"--set {text}: should be an option and its values, such as lr=1e-4,3e-4")
        if name not in fields or name in _NOT_SWEPT:
            known = ", ".join(one for one in fields if one not in _NOT_SWEPT)
            raise UserError(f"--set {text}: no option {name!r} to try values of (options: {known})")
        axes.append([({name: value}, {name: value}) for value in values])
    if not axes:
        raise UserError("nothing to try: give --set lr=1e-4,3e-4 or --preset text-types")
    named = [name for axis in axes for name in axis[0][1]]
    if twice := {name for name in named if named.count(name) > 1}:
        raise UserError(f"--set {min(twice)}: is given twice")

    combinations = list(itertools.product(*axes))
    if options.samples and options.samples < len(combinations):
        import random

        kept = sorted(random.Random(options.seed).sample(range(len(combinations)), options.samples))
        combinations = [combinations[i] for i in kept]
    made = []
    for number, combination in enumerate(combinations):
        shown = {name: value for show, _ in combination for name, value in show.items()}
        settings = {name: value for _, given in combination for name, value in given.items()}
        made.append(Trial(shown, _options(options, settings, f"trial-{number:03}")))
    return made


def _options(options: Options, settings: dict[str, str], folder: str) -> distill.Options:
    """The options of one trial; its values are read as distill's own command line reads them.

    Paths become absolute: Ray Tune runs a trial in a folder of its own.
    """
    from songsight.store import checkpoints, urls

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


def _check(options: Options, planned: list[Trial], metric: str) -> promotion.Rule | None:
    """What decides on the champion; finds before any training what would fail in each trial.

    Raises:
        UserError: naming the option.
    """
    from distill.data import text_bank
    from songsight.store import tables

    recordings = tables.read_table(options.recordings, "--recordings", ("path", "scientific_name"), tables.RECORDINGS)
    held_out = False
    for trial in planned:
        distill.check(trial.options)
        text_bank.parse_weights(trial.options.text_types)
        held_out = len(distill.split(recordings, trial.options).val) > 0
    promotion.require_measured(metric, "--metric", options.gallery, held_out)
    rule = promotion.Rule.parse(options.promote_if) if options.promote_if else None
    if rule:
        promotion.require_measured(rule.metric, "--promote-if", options.gallery, held_out)
    return rule


def _room(planned: list[Trial]) -> int:
    """How many trials the cluster holds side by side, at least 1: of those that take the most of it.

    A trial's training workers keep their CPUs to the end, and the tasks that decode for them need some too: with as
    much again for those no trial waits for another's workers for ever.
    """
    import ray

    from distill.train import launch

    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 1), resources.get("GPU", 0)
    rooms = []
    for one in (trial.options for trial in planned):
        workers = distill.worker_range(one)[1]
        workers_cpus = launch.cpus_per_worker(cpus, workers) * workers
        rooms.append(cpus / (workers_cpus + max(1, workers_cpus)))
        if one.gpus_per_worker:
            rooms.append(gpus / (one.gpus_per_worker * workers))
    return max(1, int(min(rooms)))


def _run(planned: list[Trial], side_by_side: int, parent: str) -> list[dict[str, Any]]:
    """Runs the trials by Ray Tune; returns their rows in the order of `planned`. One that fails stops no other."""
    import os

    import ray
    from ray import tune

    from jobs.shared import tracking

    # Tune's own tables and tips are for notebooks: our lines say what the user asked for.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    context = {
        "environment": {"MLFLOW_TRACKING_URI": tracking.store()}
        | {name: os.environ[name] for name in ("RAY_ADDRESS", "SONGSIGHT_GIT_COMMIT") if os.environ.get(name)},
        "parent": parent,
        "trials": planned,
    }

    class Say(tune.Callback):
        """A line when a trial ends."""

        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            measures = {k: v for k, v in trial.last_result.items() if k.startswith("val_")}
            said = ", ".join(f"{name} {value:.3f}" for name, value in measures.items())
            opts.note(f"{planned[trial.config['number']].title}: {said}")

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            opts.note(f"{planned[trial.config['number']].title}: failed")

    # A trial only watches over its workers, so that it needs no CPU of its own. It stays on this node, where the
    # folders and a local MLflow store are.
    here = f"node:{ray.util.get_node_ip_address()}"
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trial, context=context), {"CPU": 0, here: 1e-3}),
            param_space={"number": tune.grid_search(list(range(len(planned))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=side_by_side),
            run_config=tune.RunConfig(name="sweep", storage_path=folder, verbose=0, callbacks=[Say()]),
        )
        results = tuner.fit()
    found = {}
    for result in (results[i] for i in range(len(results))):
        values = result.metrics or {}
        number = (result.config or values["config"])["number"]
        found[number] = {
            key: value for key, value in values.items() if key.startswith("val_") or key in ("run_id", "version")
        } | {"error": _last_line(result.error)}
    return [
        {"settings": trial.settings, "title": trial.title, "out": trial.options.out.rsplit("/", 1)[-1], "run_id": None}
        | found[number]
        for number, trial in enumerate(planned)
    ]


def _trial(config: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
    """What Ray Tune runs: distill's own job, below the sweep's MLflow run."""
    import os

    os.environ.update(context["environment"])  # Ray's workers do not have this process's
    made = distill.train(context["trials"][config["number"]].options, parent=context["parent"])
    return made.measures | {"run_id": made.run_id, "version": made.version}


def _last_line(error: BaseException | None) -> str:
    """Why a trial failed: the last line of what Ray wraps it in."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] if error else [""]
    return lines[-1].removeprefix("songsight.errors.UserError: ")[:300]


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
