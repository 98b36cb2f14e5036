"""The command `warpzoo check`: images looked through before a training."""

from __future__ import annotations


def check(
    data: str,
    *,
    method: str | None = None,
    labels: str | None = None,
    variant: str | None = None,
    size: str | None = None,
    spacing: str | None = None,
) -> None:
    """Looks through the images of a training and prints a line for each: size, spacing, orientation, type and values.

    Says what a training does to them (turned, resampled, cropped or padded, and how much is lost) and what may be wrong
    (duplicates, label maps among images); ends with an error if there are images that cannot be trained on.

    Args:
        data: a folder of images, a .csv or .json list with the column `image` (and optionally id, group, subject,
            label), or an .npz of arrays; for a denoiser, a file or a folder.
        method: the bundle that is to be trained; default: any that registers.
        labels: a folder of label maps, of the same names as the images.
        variant: of the bundle, several joined by commas.
        size: to which images are to be padded or cropped, such as 96,96,64; default: so that nothing is cut off.
        spacing: to which they are to be resampled, in millimetres, such as 1 or 1,1,2; default: the median if they
            differ.
    """
    from warpzoo.bundles import find_bundle, shipped, variant_names
    from warpzoo.commands.train import numbers
    from warpzoo.training.inspection import doubts, refuse_broken, table, what_is_done
    from warpzoo.training.planning import own_images, planned_grid

    bundle = shipped("registration") if method is None else find_bundle(method)
    variants = variant_names(variant)
    if bundle.task == "denoising":
        from warpzoo.denoising.planning import inspect_stacks

        seen = inspect_stacks(data, 3 if "3d" in variants else bundle.spatial_dims)
        lines = [f"warning: {one.doubt}" for one in seen if one.doubt]
    else:
        records, seen, own = own_images(data, bundle if method else None, labels)
        good = [one for one in seen if not one.problem]
        names = {one.name for one in good}
        given = {name: numbers(name, text) for name, text in {"size": size, "spacing": spacing}.items() if text}
        known = bundle.settings("train", [*own, *variants])
        grid = planned_grid(known, [one for one in records if one["id"] in names], good, given)
        lines = [*what_is_done(seen, *grid), *(f"warning: {one}" for one in doubts(seen))]
    print(table(seen))
    print("\n".join(["", *lines]))
    refuse_broken(seen, "Repair what cannot be used; `warpzoo train --skip` leaves it out.")
