"""The command `warpzoo train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from warpzoo.bundles import Bundle
    from warpzoo.training.planning import Plan


def train(
    method: str | None = None,
    data: str | None = None,
    *,
    output: str | None = None,
    labels: str | None = None,
    images: str | None = None,
    group: str | None = None,
    subject: str | None = None,
    variant: str | None = None,
    size: str | None = None,
    spacing: str | None = None,
    epochs: int | None = None,
    budget: str | None = None,
    initial_weights: str | None = None,
    skip: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    again: str | None = None,
    tracking: str | None = None,
    search: str | None = None,
    trials: int | None = None,
    dry_run: bool = False,
    **settings: Any,
) -> None:
    """Trains a bundle's network on your own images, without labels.

    It looks through the images, chooses the settings that they ask for, prints the command of MONAI that does the same,
    and runs it. The output folder gets model.pt, the best weights (`warpzoo register --weights`, `warpzoo denoise
    --weights`), report.html to look at while it trains, run.json, TensorBoard's events, and last.pt to go on from.

    Any other setting of the bundle's train.json may be given too, such as --learning_rate 0.0003, --val_interval 2,
    --patience 10, --batch_size 4, --seed 1, --num_workers 4, --precision bf16 or --device cpu.

    Args:
        method: the bundle, by its name or folder.
        data: as for `warpzoo check`, which shows what is done to the images.
        output: folder of the run.
        labels: a folder of label maps, of the same names as the images (of an .npz, names of arrays): the best weights
            are then chosen by their Dice.
        images: of an .npz, which arrays are images, such as ed,es; default: the only one of three axes or more.
        group: of an .npz, arrays that tell groups apart, whose images may be paired with each other.
        subject: of an .npz, the array that tells subjects apart, which are held out as a whole.
        variant: of the bundle, several joined by commas.
        size: to which images are padded or cropped, such as 96,96,64; default: so that nothing is cut off.
        spacing: to which they are resampled, in millimetres, such as 1 or 1,1,2; default: the median if they differ.
        epochs: how long to train; default: as the bundle does.
        budget: instead of epochs, such as 2h, 30min or 5000steps: the learning rate falls to 0 over that time.
        initial_weights: file of weights to start from.
        skip: leave out images that cannot be trained on.
        resume: go on with the run in the output folder, with its settings; method and data need not be given. A run
            that has ended is left as it is.
        overwrite: remove the run that is in the output folder.
        again: the run.json of a run that is to be repeated into the output folder: on the same machine, with as many
            threads, the weights are the same, byte for byte. With again, or with resume alone, only dry_run, tracking,
            device, num_workers and accumulate may be given as well, with resume epochs, and data and labels (--data
            FOLDER) if they have moved.
        tracking: mlflow, to log metrics, pictures and the weights there.
        search: a JSON file of settings to try, such as {"regularisation_weight": [0.1, 0.3, 1]} or, for numbers between
            two, {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": true}}. Each trial is a training below the output
            folder, with search.csv as a table of all and best.json, which --variant takes; an interrupted search goes
            on.
        trials: of the search, in all; default: 20.
        dry_run: only look through the images, print the command and make all that it names, without a step.
    """
    from pathlib import Path

    if output is None:
        raise ValueError("output must be given: the folder of the run.")
    if again is not None or (resume and (method is None or data is None)):
        typed: dict[str, Any] = {"method": method, "data": data, "labels": labels}
        typed |= {"images": images, "group": group, "subject": subject}
        typed |= {"variant": variant, "size": size, "spacing": spacing, "epochs": epochs, "budget": budget}
        typed |= {"initial_weights": initial_weights, "skip": skip or None, "search": search, "trials": trials}
        typed = {name: value for name, value in {**typed, **settings}.items() if value is not None}
        _repeat(again, Path(output), typed, {"resume": resume, "overwrite": overwrite}, tracking, dry_run)
        return
    if method is None or data is None:
        raise ValueError("method and data must be given, such as in `warpzoo train METHOD DATA --output RUN`.")
    from warpzoo.bundles import find_bundle, variant_names
    from warpzoo.errors import as_value_error

    bundle = find_bundle(method)
    if trials is not None and search is None:
        raise ValueError(f"trials must be given with search, the space of settings, got {trials} without.")
    if search is not None and (resume or overwrite or tracking):
        raise ValueError("resume, overwrite and tracking must not be given with search, which goes on by itself.")
    if not (resume or overwrite):
        from warpzoo.training.run_folder import check_unused

        check_unused(Path(output))
    given: dict[str, Any] = {name: numbers(name, text) for name, text in (("size", size), ("spacing", spacing)) if text}
    given |= settings
    if initial_weights is not None:
        if not (resume or Path(initial_weights).is_file()):
            raise ValueError(f"{initial_weights} does not exist; initial_weights must be a file of weights.")
        given["initial_weights"] = str(Path(initial_weights).absolute())
    given |= {name: True for name, chosen in (("resume", resume), ("overwrite", overwrite)) if chosen}
    if budget is not None:
        given["budget"] = budget
    if epochs is not None:
        if budget is not None:
            raise ValueError("epochs and budget must not be given together: both say how long to train.")
        given |= _epochs(bundle, epochs, settings)
    with as_value_error():
        listed = {"labels": labels, "images": images, "group": group, "subject": subject}
        plan = _planned(bundle, data, output, listed, variant_names(variant), skip, given)
    print(
        "\n".join([*plan.notes, "", f"{plan.command()}{f' --tracking {tracking}' if tracking else ''}", ""]), flush=True
    )
    if search is not None:
        _search(plan, Path(output), search, 20 if trials is None else trials, dry_run)
    else:
        run(bundle, bundle.config("train", plan.variants, **plan.settings), tracking, dry_run)


def _planned(
    bundle: Bundle,
    data: str,
    output: str,
    listed: Mapping[str, str | None],
    variants: list[str],
    skip: bool,
    given: dict[str, Any],
) -> Plan:
    """The plan of a training; `listed` says about the images what `options_of` takes."""
    from warpzoo.training.lists import options_of

    if bundle.task == "denoising":
        from warpzoo.denoising.planning import plan_denoising

        for name, value in listed.items():
            if value is not None:
                raise ValueError(f"{name} must not be given for a denoiser.")
        return plan_denoising(bundle, data, output, variants, skip, given)
    from warpzoo.training.planning import own_images, plan_registration

    options = options_of(data, **listed)
    options |= {name.removeprefix("records#"): given[name] for name in given if name.startswith("records#")}
    return plan_registration(bundle, own_images(data, bundle, **options), output, variants, skip, given)


def _epochs(bundle: Bundle, epochs: int, settings: dict[str, Any]) -> dict[str, Any]:
    """The setting that lets a training last for so many epochs."""
    from warpzoo.checks import check_count

    check_count("epochs", epochs)
    known = bundle.settings("train") | settings
    return {"epochs": epochs} if "epochs" in known else {"budget": f"{epochs * known['steps_per_epoch']}steps"}


def run(bundle: Bundle, config: Any, tracking: str | None = None, dry_run: bool = False) -> None:
    """Runs a training's configuration as MONAI's command does, or only makes all that it names."""
    from warpzoo.errors import as_value_error

    if tracking is not None:
        from warpzoo.training.tracking import track

        track(config, tracking)
    with as_value_error():
        workflow = bundle.workflow_of("train", config)
        if dry_run:
            workflow.parser.get_parsed_content("train#trainer")
            return
        workflow.run()
        workflow.finalize()


def _search(plan: Plan, output: Any, space: str, trials: int, dry_run: bool) -> None:
    """Trains with settings of a space, and says which were best."""
    from warpzoo.bundles.overrides import check_overrides, default_of
    from warpzoo.checks import check_count
    from warpzoo.files import alone_in
    from warpzoo.training.search import read_space, search

    check_count("trials", trials)
    choices, known = read_space(space), plan.bundle.settings("train", plan.variants)
    for name, some in choices.items():
        for value in some if isinstance(some, list) else [some["low"], some["high"]]:
            check_overrides(known, {name: value})
    whole = {name for name in choices if isinstance(default_of(known, name), int)}
    if dry_run:
        print(f"{space}: {trials} trials of {', '.join(choices)}; nothing is run (dry_run)")
        return

    def trial(folder: Any, settings: Any) -> None:
        chosen = {**plan.settings, **settings, "output_dir": str(folder.absolute())}
        chosen["resume"] = (folder / "run.json").is_file()
        print(f"{folder.name}: {settings}", flush=True)
        run(plan.bundle, plan.bundle.config("train", plan.variants, **chosen))

    with alone_in(output):
        best = search(output, choices, trials, int(plan.settings.get("seed", 0)), trial, whole)
    print(f"{output / 'search.csv'}: best {best}; {output / 'best.json'} is a variant with these settings")


def _repeat(
    again: str | None,
    output: Path,
    typed: dict[str, Any],
    changes: dict[str, Any],
    tracking: str | None,
    dry_run: bool,
) -> None:
    """Runs the configuration of a run's record, once more into another folder, or on from where it was; of the other
    options that were typed, those about the machine and where the data are now are taken, and any other is refused."""
    import torch

    from warpzoo.training.again import check_typed, moved, read_run, recorded_config
    from warpzoo.training.run_folder import RECORD, check_unused
    from warpzoo.training.tracking import run_name

    recorded = output / RECORD if again is None else again
    found = read_run(recorded)
    places = moved(found, typed)
    typed = {name: value for name, value in typed.items() if name not in places}
    check_typed(found, typed, "resume" if again is None else "again")
    if not (changes["resume"] or changes["overwrite"]):
        check_unused(output)
    changes = {**changes, **typed, **dict(places.values()), "output_dir": str(output.absolute())}
    bundle, config, notes = recorded_config(found, recorded, **changes)
    if again is not None and "run_name" in config:
        config["run_name"] = run_name(config)  # of its own
    for note in notes:
        print(note)
    torch.set_num_threads(int(found["machine"]["threads"]))
    run(bundle, config, tracking, dry_run)
    if dry_run:
        print(f"{recorded}: the images and the configuration are there; nothing is run (dry_run)")


def numbers(name: str, text: str) -> Any:
    """ "96,96,64" → [96, 96, 64], "1.5" → 1.5."""
    parts = str(text).strip("[]() ").split(",")
    try:
        found = [float(part) for part in parts]
    except ValueError:
        raise ValueError(f"{name} must be numbers joined by commas, such as 96,96,64, got {text!r}.") from None
    if not all(0 < one < float("inf") for one in found):
        raise ValueError(f"{name} must be numbers above 0, got {text!r}.")
    whole = [int(one) if one == int(one) else one for one in found]
    if name == "size" and not all(isinstance(one, int) and one > 0 for one in whole):
        raise ValueError(f"size must be whole numbers of voxels, such as 96,96,64, got {text!r}.")
    return whole[0] if len(whole) == 1 and name == "spacing" else whole
