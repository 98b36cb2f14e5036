"""The command `warpzoo check`: images looked through before a training."""

from __future__ import annotations

from inspect import signature
from typing import Any


def check(
    data: str,
    *,
    method: str | None = None,
    labels: str | None = None,
    images: str | None = None,
    group: str | None = None,
    subject: str | None = None,
    variant: str | None = None,
    size: str | None = None,
    spacing: str | None = None,
    **settings: Any,
) -> None:
    """Looks through the images of a training and prints a line for each: size, spacing, orientation, type and values.

    Says what a training does to them (turned, resampled, cropped or padded, and how much is lost), what it holds out to
    validate on, and what may be wrong (duplicates, label maps among images); ends with an error if there are images, or
    settings, that cannot be trained on. Settings of the bundle may be given as to `warpzoo train`.

    Args:
        data: a folder of images, a .csv or .json list with the column `image` (and optionally id, group, subject,
            label), or an .npz of arrays; for a denoiser, a file or a folder.
        method: the bundle that is to be trained; default: any that registers.
        labels: a folder of label maps, of the same names as the images; of an .npz, names of arrays.
        images: of an .npz, which arrays are images, such as ed,es; default: the only one of three axes or more.
        group: of an .npz, arrays that tell groups apart, whose images may be paired with each other.
        subject: of an .npz, the array that tells subjects apart, which are held out as a whole.
        variant: of the bundle, several joined by commas.
        size: to which images are to be padded or cropped, such as 96,96,64; default: so that nothing is cut off.
        spacing: to which they are to be resampled, in millimetres, such as 1 or 1,1,2; default: the median if they
            differ.
    """
    from warpzoo.bundles import find_bundle, shipped, variant_names
    from warpzoo.bundles.overrides import check_overrides
    from warpzoo.commands.train import numbers
    from warpzoo.errors import as_value_error, nearest
    from warpzoo.training.inspection import doubts, refuse_broken, table, what_is_done
    from warpzoo.training.lists import options_of
    from warpzoo.training.planning import own_images, plan_registration, planned_grid

    bundle = shipped("registration") if method is None else find_bundle(method)
    variants = variant_names(variant)
    if settings and method is None:
        meant = nearest(min(settings), signature(check).parameters)
        raise ValueError(f"method must be given with the settings of one, such as {min(settings)}{meant}.")
    given = {name: numbers(name, text) for name, text in {"size": size, "spacing": spacing}.items() if text} | settings
    way_out = "Repair what cannot be used; `warpzoo train --skip` leaves it out."
    if bundle.task == "denoising":
        from warpzoo.denoising.planning import doubts_in_short, inspect_stacks, plan_denoising

        known = bundle.settings("train", variants)
        check_overrides(known, given)
        dims = given.get("spatial_dims", known["spatial_dims"])
        seen = inspect_stacks(data, dims, given.get("channel"), given.get("time_axis"))
        print(table(seen), flush=True)
        if any(one.problem for one in seen):
            print("\n".join(["", *doubts_in_short(seen)]))
            refuse_broken(seen, way_out)
        print("\n".join(["", *plan_denoising(bundle, data, ".", variants, given=given, seen=seen).notes]))
        return
    options = options_of(data, labels=labels, images=images, group=group, subject=subject)
    own = own_images(data, bundle if method else None, **options)
    print(table(own.seen), flush=True)
    grid = planned_grid(bundle.settings("train", [*own.variants, *variants]), *own.good(), given)
    print("\n".join(["", *what_is_done(own.seen, *grid), *(f"warning: {one}" for one in doubts(own.seen))]))
    refuse_broken(own.seen, way_out)
    if method is not None:
        with as_value_error():
            print("\n".join(plan_registration(bundle, own, ".", variants, given=given).notes))
