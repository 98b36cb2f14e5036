"""Self-supervised image registration and denoising as MONAI bundles.

Convention: a displacement field is in voxels of the fixed grid, shape (batch, dims, *spatial), component i along
spatial axis i, and `warped(x) = moving(x + displacement(x))`; a transform takes points of the fixed space to the moving
space.

Example:
    >>> result = warpzoo.register("fixed.nii.gz", "moving.nii.gz", method="affine,svf")
    >>> result.warped, result.metrics, result.transform
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from warpzoo.cohorts.interface import Cohort, register_many
    from warpzoo.denoising.interface import denoise
    from warpzoo.images.image import Image, read_image
    from warpzoo.registration.dictionary import Registerd
    from warpzoo.registration.interface import Result, register
    from warpzoo.registration.methods import find_methods
    from warpzoo.registration.pair import Registration, register_pair
    from warpzoo.registration.sequence_interface import register_sequence
    from warpzoo.registration.series_interface import SeriesResult, register_series
    from warpzoo.transforms.placed import PlacedTransform, read_transform

__version__ = "0.1.0"

__all__ = [
    "Cohort",
    "Image",
    "PlacedTransform",
    "Registerd",
    "Registration",
    "Result",
    "SeriesResult",
    "denoise",
    "find_methods",
    "read_image",
    "read_transform",
    "register",
    "register_many",
    "register_pair",
    "register_sequence",
    "register_series",
]

_HOMES = {
    "Cohort": "warpzoo.cohorts.interface",
    "Image": "warpzoo.images.image",
    "PlacedTransform": "warpzoo.transforms.placed",
    "Registerd": "warpzoo.registration.dictionary",
    "Registration": "warpzoo.registration.pair",
    "Result": "warpzoo.registration.interface",
    "SeriesResult": "warpzoo.registration.series_interface",
    "denoise": "warpzoo.denoising.interface",
    "find_methods": "warpzoo.registration.methods",
    "read_image": "warpzoo.images.image",
    "read_transform": "warpzoo.transforms.placed",
    "register": "warpzoo.registration.interface",
    "register_many": "warpzoo.cohorts.interface",
    "register_pair": "warpzoo.registration.pair",
    "register_sequence": "warpzoo.registration.sequence_interface",
    "register_series": "warpzoo.registration.series_interface",
}


def __getattr__(name: str) -> Any:
    """Imported when first asked for: `import warpzoo` takes milliseconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'warpzoo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
