"""`python -m shotstream evaluate`: how well a model does, as a table, as JSON, or as the page that compares models.

Owns the options and what is run for them. Stories come in two fixed sets: tune on `validation`; look at `test` once, to
report.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from shotstream.arguments import MAX_FILM_SEED, add_model_arguments, load_model, whole_number
from shotstream.errors import UserError

SETS = {"validation": 20_000, "test": 77_000}  # their seeds; neither is trained on
STORIES = 200
ROUNDS = 3  # of measuring how fast all rows are
TITLE = "What each part is there for"
MANY = 20  # stories: fewer are measured before other processes have started
STORY_FILES = Path(__file__).parents[2] / "assets" / "stories"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", nargs="?", metavar="MODEL", help="the same as --model")
    add_model_arguments(parser)
    parser.add_argument(
        "--stories", type=whole_number(1, 100_000), help=f"how many (default: {STORIES}; with --real all there are)"
    )
    parser.add_argument(
        "--drift",
        type=whole_number(0, 10_000),
        metavar="N",
        help="stories of 20 shots, and shots of 7 chunks, to see drift (default: a tenth of the stories)",
    )
    parser.add_argument(
        "--workers",
        type=whole_number(1, 256),
        help=f"processes that shoot and measure (default: on a CPU as many as cores, from {MANY} stories on)",
    )
    stories = parser.add_mutually_exclusive_group()
    stories.add_argument(
        "--set", choices=SETS, default="validation", help="tune on validation (default), report on test, once"
    )
    stories.add_argument("--seed", type=whole_number(0, 2**31), help="other stories than those of the two sets")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="also write JSON; - for it instead of a table"
    )
    parser.add_argument(
        "--table", type=Path, metavar="FILE.yaml", help="compare models: - {name: ..., model: FOLDER, ...}"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.md",
        help="the page of --table, with JSON and plots beside it; rows made stay, and what somebody wrote of them in "
        "its section 'What it says'; with --directing its last section",
    )
    parser.add_argument(
        "--speed",
        action="store_true",
        help="with --table: how fast all rows' models are, measured anew round by round, so that they compare",
    )
    parser.add_argument(
        "--directing", action="store_true", help="instead: steering, long shots, and policies of memory over many shots"
    )
    parser.add_argument(
        "--real", action="store_true", help="any model, on story files, by features of --dino and --clip"
    )
    parser.add_argument("--prompts", type=Path, metavar="FOLDER", help="story files for --real (default: our examples)")
    parser.add_argument("--dino", type=Path, metavar="FOLDER", help="a DINO model of the transformers library")
    parser.add_argument("--clip", type=Path, metavar="FOLDER", help="a CLIP model of the transformers library")


def run(args: argparse.Namespace) -> int:
    if args.place and args.model:
        raise UserError("Name one model, either alone or with --model.")
    args.model = args.place or args.model
    if args.table and not args.output:
        raise UserError("--table needs -o: the page to write.")
    if args.output and not (args.table or args.directing):
        raise UserError("-o is the page of --table or --directing: name one of them.")
    if args.table and (args.real or args.model):
        raise UserError("--table names its models itself: leave out --real and --model.")
    if args.table and (option := _altering(args)):
        raise UserError(f"--table measures models as their folders have them: leave out {option}.")
    if args.real and args.drift is not None:
        raise UserError("--drift is for toy stories; real films show theirs shot by shot and chunk by chunk.")
    if args.speed and not args.table:
        raise UserError("--speed is for the rows of --table: name it, or measure one model with bench.")
    if not args.real and (args.dino or args.clip or args.prompts):
        raise UserError("--dino, --clip and --prompts are for --real.")
    for target in (args.output, None if args.json in (None, "-") else Path(args.json)):
        if target and not target.parent.is_dir():  # better told now than after hours of shooting
            raise UserError(f"There is no folder {target.parent} to write {target.name} into.")
    if args.directing and (args.table or args.real):
        raise UserError("--directing is a measurement of its own: leave out --table and --real.")
    if args.table:
        return _table(args)
    if args.directing:
        return _directing(args)
    return _real(args) if args.real else _toy(args)


def _progress(label: str):
    from tqdm import tqdm

    return lambda items: tqdm(items, desc=label, disable=None)


def _sample(args: argparse.Namespace):
    from shotstream.evaluation.toyworld import Sample

    stories = args.stories or STORIES
    drift = stories // 10 if args.drift is None else args.drift
    return Sample(SETS[args.set] if args.seed is None else args.seed, stories, drift, others=stories // 4)


def _toy(args: argparse.Namespace) -> int:
    """The truth, the model, and the model without memory, side by side."""
    model = load_model(args)
    from shotstream.evaluation import report, toyworld, variants
    from shotstream.evaluation.cuts import best_detector

    sample, detector = variants.fitted(_sample(args), model), best_detector(model.device)
    run = _runner(args, model.device, sample, detector, "truth")
    rows = {variants.TRUTH: variants.measure_truth(sample, run)}
    for label, without in ((model.name, False), ("without memory", True)):
        variant = variants.Variant(label, Path(), without_memory=without)
        run = _runner(args, model.device, sample, detector, label, model, variant, args.model)
        rows[label] = variants.measure_variant(model, variant, sample, run)
    autoencoder = toyworld.check_autoencoder(model, min(sample.stories, 100), sample.seed + 2)
    found = {
        "sample": asdict(sample),
        "detector": detector and detector.name,
        "autoencoder": autoencoder,
        "rows": {name: variants.row_dict(row) for name, row in rows.items()},
    }
    told = "  ".join(f"{name} {value:.1f} dB" for name, value in autoencoder.items())
    table = f"{_about(sample, detector)}\n\n{report.text_table(rows)}\nautoencoder: {told}"
    _tell(args.json, found, table)
    return 0


def _directing(args: argparse.Namespace) -> int:
    """What a director relies on, as a Markdown table."""
    from shotstream.evaluation import directing, report, toyworld, variants

    sample, model = _sample(args), load_model(args)
    toyworld.check_fits(model)
    figures = directing.measure(model, sample.stories, sample.seed, _progress("directing"))
    told = directing.markdown(figures)
    _tell(args.json, {name: asdict(figure) for name, figure in figures.items()}, told)
    if args.output:
        about = f"{model.name}: {sample.stories} stories of each kind (seed {sample.seed}), films of "
        about += f"{directing.BEYOND} shots over a quarter of them; standard errors over stories."
        page = report.with_directing(_page(args.output) or f"# {TITLE}\n", f"{about}\n\n{told}")
        variants.write_whole(args.output, page.encode())
    return 0


def _page(path: Path) -> str:
    """What is written there. Raises `UserError` if that is not text; nothing if there is no file."""
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a page of text: move it away.") from error


def _runner(args: argparse.Namespace, device, sample, detector, label: str, model=None, variant=None, source=None):
    """Measures films by `variant` of `model`, which `source` names to other processes; or the truth's."""
    from shotstream.evaluation import pool, toyworld, variants

    on_a_cpu = device.type == "cpu" and sample.stories >= MANY
    workers = args.workers or (os.cpu_count() if on_a_cpu else 1) or 1
    if workers == 1 or _altering(args):  # other processes load the model as its folder has it
        shooter = toyworld.rendered if model is None else variants.shooter_of(model, variant)
        return toyworld.one_by_one(shooter, sample, detector, _progress(label))
    work = pool.Work(sample)
    if model is not None:
        work = pool.Work(sample, variant, source and str(source), model.device, model.dtype, args.attention)
    return pool.in_processes(work, workers, _progress(label))


def _altering(args: argparse.Namespace) -> str | None:
    """The first option by which the model that was loaded is another one than its folder's."""
    options = ("fast", "eight_bit", "compile", "preview", "low_vram", "int8_text")
    return next((f"--{name.replace('_', '-')}" for name in options if getattr(args, name)), None)


def _about(sample, detector) -> str:
    from shotstream.evaluation.toyworld import DETECTED

    cuts = "cut_detected not measured: no detector is installed"
    if detector:
        cuts = f"cuts found by {detector.name} in the first {min(DETECTED, sample.stories)} stories"
    return (
        f"{sample.stories} stories of three shots (seed {sample.seed}) whose later captions name neither character nor "
        f"place nor time; {sample.others} stories each of the wider world, of returns and of changes in mid-shot; "
        f"drift on {sample.drift} stories; errors are standard errors over stories; {cuts}."
    )


def _tell(target: str | None, found: dict, table: str) -> None:
    """JSON to standard output instead of the table, or to a file besides it."""
    content = json.dumps(found, indent=1) + "\n"
    if target == "-":
        sys.stdout.write(content)
        return
    print(table)
    if target:
        from shotstream.evaluation.variants import write_whole

        write_whole(Path(target), content.encode())


def _table(args: argparse.Namespace) -> int:
    """Every row of the YAML file, as far as it is not there yet; then the page and its plots."""
    from shotstream.arguments import resolve_device, resolve_dtype
    from shotstream.evaluation import plots, report, variants
    from shotstream.evaluation.cuts import best_detector
    from shotstream.models import weights

    plots.require_matplotlib()
    wanted = variants.read_variants(args.table)
    device = resolve_device(args.device)
    dtype = resolve_dtype(args.dtype, device)
    sample, detector = _sample(args), best_detector(device)
    results = variants.Results(args.output.with_suffix(".json"))

    def load(variant: variants.Variant):
        return weights.load_model(variant.model, device=device, dtype=dtype, attention=args.attention)

    def make(variant: variants.Variant) -> variants.Row:
        model = load(variant)
        fitted = variants.fitted(sample, model)
        run = _runner(args, device, fitted, detector, variant.name, model, variant, variant.model)
        return variants.measure_variant(model, variant, fitted, run)

    truth = variants.row_key(None, sample, detector)
    if results.key(variants.TRUTH) not in (None, truth):  # nothing that took hours is thrown away by a slip
        raise UserError(
            f"The rows beside {args.output} are of other stories or another detector of cuts: ask with the --set, "
            "--stories and --drift of then, or write another page."
        )
    keys = {variant.name: variants.row_key(variant, sample, detector) for variant in wanted}
    for variant in wanted:
        if not variant.model.is_dir() and not results.has(variant.name, keys[variant.name]):
            raise UserError(f"{args.table}: there is no model folder at {variant.model} for the row {variant.name!r}.")

    def shoot_truth() -> variants.Row:
        return variants.measure_truth(sample, _runner(args, device, sample, detector, "truth"))

    rows = {variants.TRUTH: results.made(variants.TRUTH, truth, shoot_truth)}
    for variant in wanted:
        rows[variant.name] = results.made(variant.name, keys[variant.name], lambda variant=variant: make(variant))
    results.keep_only(list(rows))
    if args.speed:
        here = [variant for variant in wanted if variant.model.is_dir()]
        rounds = [[variants.speed_of(v.applied_to(load(v))) for v in here] for _ in _progress("speed")(range(ROUNDS))]
        for variant, *speeds in zip(here, *rounds, strict=True):
            results.set_speed(variant.name, speeds)
            rows[variant.name] = results.get(variant.name)

    files = {}
    for name, (caption, png) in plots.draw_plots(rows).items():
        path = args.output.with_name(f"{args.output.stem}-{name}.png")
        variants.write_whole(path, png)
        files[caption] = path.name
    before = _page(args.output)
    page = report.markdown(rows, TITLE, [_about(sample, detector)], files, report.findings_of(before))
    page = report.with_directing(page, report.directing_of(before))
    variants.write_whole(args.output, page.encode())
    print(f"{args.output}: {len(rows)} rows, {len(files)} plots")
    return 0


def _real(args: argparse.Namespace) -> int:
    """Films of story files, measured by features."""
    from shotstream.story import read_story

    folder = args.prompts or STORY_FILES
    stories = [read_story(path) for path in sorted(folder.glob("*.json"))]
    if not stories:
        raise UserError(f"There are no story files (*.json) in {folder}.")
    if args.stories and args.stories > len(stories):
        raise UserError(f"{folder} has {len(stories)} story files, not {args.stories}: name a folder with --prompts.")
    for path in (args.dino, args.clip):
        if path and not path.is_dir():
            raise UserError(f"There is no folder {path}.")
    model = load_model(args)
    from shotstream.evaluation import real

    seed = (SETS[args.set] if args.seed is None else args.seed) % MAX_FILM_SEED
    found = real.measure(model, stories[: args.stories], seed, args.dino, args.clip, _progress(model.name))
    _tell(args.json, found.as_dict(), found.text())
    return 0
