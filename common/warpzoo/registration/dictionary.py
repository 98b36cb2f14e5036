"""Registration as a dictionary transform, inside MONAI's `Compose`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ensure_tuple

from warpzoo.registration.interface import register

RESAMPLED_BY = ("channels", "interpolation", "outside")
"""Options that also hold for the images that are brought along."""


class Registerd(MapTransform):
    """Registers one item of a dictionary to another and brings others along, without a way through files.

    The warped images have the fixed image's affine. The item `transform_key` becomes the transform, to apply to what is
    not an image, to invert and to save; a DataLoader must then have a collate function that takes it.

    Args:
        keys: the moving image and others of its space, resampled with it; the first one is registered.
        fixed_key: the reference image.
        method: as for `warpzoo.register`, and `options` are its others.
        label_keys: which of the keys are label maps: nearest-neighbour interpolation.
        transform_key: where the transform goes; None leaves it out.
        metrics_key: where the numbers go; None leaves them out.
        allow_missing_keys: whether keys other than the first may be missing.

    Example:
        >>> Compose([LoadImaged(["t1", "t2", "t2_labels"], ensure_channel_first=True),
        ...          Registerd(["t2", "t2_labels"], fixed_key="t1", label_keys=["t2_labels"], similarity="mi")])
    """

    def __init__(
        self,
        keys: KeysCollection,
        fixed_key: str,
        method: str | None = None,
        label_keys: Sequence[Hashable] = (),
        transform_key: str | None = None,
        metrics_key: str | None = None,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        label_keys = ensure_tuple(label_keys)
        unknown = set(label_keys) - set(self.keys)
        if unknown:
            raise ValueError(f"label_keys must be among keys {self.keys}, got {sorted(map(str, unknown))}.")
        if self.keys[0] in label_keys:
            raise ValueError(f"keys must begin with the moving image, got the label map {self.keys[0]!r}.")
        self.fixed_key = fixed_key
        self.method = method
        self.label_keys = set(label_keys)
        self.transform_key = transform_key
        self.metrics_key = metrics_key
        self.options = options

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        found = dict(data)
        first = self.keys[0]
        result = register(found[self.fixed_key], found[first], self.method, **self.options)
        as_written = {name: self.options[name] for name in RESAMPLED_BY if name in self.options}
        for key in self.key_iterator(found):
            if key == first:
                found[key] = result.warped
            elif key in self.label_keys:
                found[key] = result.transform.apply(labels=found[key])
            else:
                found[key] = result.transform.apply(found[key], **as_written)
        if self.transform_key is not None:
            found[self.transform_key] = result.transform
        if self.metrics_key is not None:
            found[self.metrics_key] = result.metrics
        return found
