"""A method that is a network: one pass gives a transform, of the kind that the network predicts.

A network of a bundle takes moving and fixed as channels and returns [warped | displacement]. One that also has
`transform(image, grid)` says what the displacement is made of: a matrix, B-spline coefficients, a velocity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from warpzoo.bundles import Bundle, open_bundle, training_objective
from warpzoo.files import whole_file
from warpzoo.geometry.composition import composed, identity
from warpzoo.geometry.grid import Grid
from warpzoo.geometry.sampling import warp
from warpzoo.geometry.transforms import Affine, DisplacementField, Transform, resample
from warpzoo.images.image import Image
from warpzoo.images.orientation import working_grid
from warpzoo.networks import fold_norms, load_weights
from warpzoo.registration.budget import Budget
from warpzoo.registration.descent import Descent
from warpzoo.registration.guidance import Guidance
from warpzoo.registration.label_maps import are_labels
from warpzoo.registration.pair import on_working_grid
from warpzoo.registration.placement import middles
from warpzoo.registration.pyramid import coarser, pyramid, shrink

FEW_VOXELS = 200
ADAPTATION_RATE = 1e-4
CENTRES = (None, "geometry", "mass")
IN_PLACE = 0.9
"""Correlation, where both can be seen, of images that lie in their place."""


class PredictsTransform(Protocol):
    """A network that says what its displacement is made of; (1, 2, *grid) of moving and fixed."""

    def transform(self, image: Tensor, grid: Grid) -> Transform: ...


class NetworkMethod:
    """Passes of a bundle's network, before which, if `adapt` says how long, it is trained on the pair at hand.

    Each pass sees the moving image as the passes before have warped it: on the network's own grid, from one reading of
    the images.

    Args:
        network: the bundle's.
        bundle: its folder.
        weights: file of its weights; loaded at the first pair.
        device: where it runs.
        spatial_dims: what it takes; as the metadata say if not given.
        spacing: of the grid that it works on, in the world's unit; None for the fixed image's own. Its axes are the
            fixed image's, in the order and direction of RAS.
        adapt: iterations, or seconds such as "10s", of training by the bundle's own objective on each pair, always from
            the weights in the file.
        variants: of the bundle, for its objective.
        passes: how often it looks.
        trained_on: the ranges of the weights' training data, if they say so, as `training_data` in the metadata.
        size: instead of a spacing, for a network that predicts a matrix: voxels along each side of the cube that it
            works on, about the fixed image and as wide as its longest side. The images are averaged to its voxels;
            beyond them is their lowest value.
        most_voxels: of the grid, at its own or a given spacing; where there are more, images are averaged to about as
            many.
        centres: where it starts if nothing is known: None by the headers, "geometry" with the middle of the moving
            image on that of the fixed one, "mass" with its centre of mass on the fixed one's, or by the headers if the
            images lie in their place so, as an image and its crop do; then they are never less alike after it.
    """

    def __init__(
        self,
        network: nn.Module,
        bundle: str | Path,
        weights: str | Path,
        device: torch.device | str = "cpu",
        spatial_dims: int | None = None,
        spacing: float | Sequence[float] | None = None,
        adapt: str | float = 0,
        variants: Sequence[str] = (),
        passes: int = 1,
        trained_on: Mapping[str, Any] | None = None,
        size: int | None = None,
        centres: str | None = None,
        most_voxels: int | None = None,
    ) -> None:
        self.network = network
        self.bundle: Bundle = open_bundle(bundle)
        self.weights = Path(weights)
        self.device = torch.device(device)
        self.spatial_dims = self.bundle.spatial_dims if spatial_dims is None else spatial_dims
        if centres not in CENTRES:
            raise ValueError(f"centres must be one of {', '.join(map(str, CENTRES))}, got {centres!r}.")
        if spacing is not None and size is not None:
            raise ValueError(f"spacing and size must not both be given, got {spacing} and {size}.")
        self.spacing, self.size, self.centres, self.most_voxels = spacing, size, centres, most_voxels
        self.adapt = Budget.read("adapt", adapt)
        self.variants = tuple(variants)
        self.passes = check_passes(passes)
        self.trained_on = dict(trained_on or {})
        self.loaded = False
        self.kept: Path | None = None

    @property
    def name(self) -> str:
        return ",".join([self.bundle.name] * self.passes)

    @property
    def denoises(self) -> bool:
        """Whether the network denoises images as well; methods after it are then given what it makes of them."""
        return hasattr(self.network, "denoised")

    @property
    def linear(self) -> bool:
        """Whether it finds a matrix."""
        return self.size is not None or self.denoises

    def denoised(self, image: Image) -> Image:
        """An image as the network sees it without noise, in its own intensities; from the folder `kept`, if there is
        one, of files by what the images hold."""
        if image.grid.dims != self.spatial_dims:
            raise ValueError(f"frames must be {self.spatial_dims}-D for {self.name}, got {image.grid.dims}-D.")
        file = None
        if self.kept is not None:
            file = self.kept / f"{sha256(image.array.numpy().tobytes()).hexdigest()[:32]}.npy"
            if file.exists():
                return replace(image, array=torch.from_numpy(np.load(file)))
        array = image.array[None].to(self.device)
        with torch.no_grad():
            clean = self.ready().denoised(array)[0]  # type: ignore[operator]
        if file is not None:
            with whole_file(file) as unfinished:
                np.save(unfinished, clean.cpu().numpy())
        return replace(image, array=clean.cpu())

    @property
    def expectations(self) -> Mapping[str, Any]:
        """What the shipped weights were trained on, and others as far as they say. Weights for which `training_data`
        has an entry of their own, by the file's name, were trained on that, the others on what the bundle's were."""
        shipped = self.weights.resolve().parent == self.bundle.root / "models"
        known = self.bundle.metadata.get("training_data", {}) if shipped else {}
        known = known.get(self.weights.name, known)
        anywhere = {} if self.centres is None else {"displacement": float("inf")}
        return {
            "spatial_dims": self.spatial_dims,
            "guided": bool(self.adapt),
            **anywhere,
            **known,
            **self.trained_on,
        }

    def __call__(
        self, fixed: Image, moving: Image, start: Transform | None, guidance: Guidance | None = None
    ) -> Transform:
        if are_labels(fixed, moving) or len(fixed.array) > 1:
            seen = "label maps" if are_labels(fixed, moving) else f"{len(fixed.array)} channels"
            raise ValueError(f"{self.bundle.name} must be given images of one channel, got {seen}; choose affine,svf.")
        grid = self.finest(fixed, start)
        # one pass from no start has nothing to keep: Ctrl-C ends it at once
        keeps = bool(self.adapt) or start is not None
        with Descent(self.adapt, self.name) if keeps else nullcontext() as descent:
            averages = self.size is not None or self.most_voxels is not None
            pair = [averaged(image, min(grid.spacing)) if averages else image for image in (fixed, moving)]
            beyond = "border" if self.size is None else "constant"
            by_headers = None
            if start is None and self.centres is not None:
                by_headers = correlation_in_view(pair[0], pair[1], None, grid)
                if by_headers < IN_PLACE:
                    start, by_headers = centred(fixed, moving, CENTRES.index(self.centres) - 1), None
            image = on_working_grid(pair[0], pair[1], start, grid, beyond).to(self.device)
            network = self.ready()
            if descent and self.adapt:
                mask = None if guidance is None else guidance.on_grid(grid, fixed, moving, start)
                network = adapted(network, self.objective, image, descent, mask)
            found = composed(in_passes(network, image, grid, self.passes), start)
            if by_headers is not None and correlation_in_view(pair[0], pair[1], found, grid) < by_headers:
                found = identity(fixed.grid)
        return descent.finished(found) if descent else found

    def finest(self, fixed: Image, start: Transform | None) -> Grid:
        """What the network sees images on."""
        grid = working_grid(fixed)
        if self.size is not None:
            return cube_about(grid, self.size)
        grid = grid if self.spacing is None else grid.with_spacing(self.spacing)
        return grid if self.most_voxels is None else coarser(grid, pyramid(grid, self.most_voxels)[-1])

    def ready(self) -> nn.Module:
        """The network with its weights, on its device."""
        if not self.loaded:
            load_weights(self.weights, self.network)
            fold_norms(self.network).to(self.device)
            self.loaded = True
        return self.network

    def objective(self, network: nn.Module) -> nn.Module:
        """What the bundle trains its network for, around this one."""
        objective: nn.Module = training_objective(self.bundle.root, network, self.variants)
        return objective


def centred(fixed: Image, moving: Image, which: int) -> Affine:
    """The translation that brings the middle (0) or the centre of mass (1) of the moving image onto the fixed one's."""
    for image in (fixed, moving):
        if which and not bool((image.array != image.array.flatten()[0]).any()):
            raise ValueError(f"{image.header.path} must show something to have a centre of mass, got a constant image.")
    here, there = (
        middles(image.array[None], image.grid, None)[1] if which else image.grid.centre for image in (fixed, moving)
    )
    matrix = np.eye(fixed.grid.dims, fixed.grid.dims + 1)
    matrix[:, -1] = there - here
    return Affine.from_world(torch.from_numpy(matrix[None]), fixed.grid)


def correlation_in_view(fixed: Image, moving: Image, transform: Transform | None, grid: Grid) -> float:
    """Of the voxels of a grid that both images reach; 0 if they are few or show nothing."""
    placed, own = transform or identity(grid), identity(grid)
    seen = torch.ones(1, 1, *grid.shape, dtype=torch.bool)
    for image, way in ((moving, placed), (fixed, own)):
        there = torch.ones(1, 1, *image.grid.shape, dtype=torch.uint8)
        seen &= resample(there, image.grid, way, grid, mode="nearest") > 0
    if int(seen.sum()) < FEW_VOXELS:
        return 0.0
    pair = [resample(one.array[None], one.grid, way, grid) for one, way in ((fixed, own), (moving, placed))]
    found = torch.corrcoef(torch.stack([one[seen] for one in pair]))[0, 1]
    return float(found.nan_to_num())


def cube_about(grid: Grid, size: int) -> Grid:
    """A cube of so many voxels a side with the same middle and axes, as wide as the grid's longest side."""
    spacing = max(count * side for count, side in zip(grid.shape, grid.spacing, strict=True)) / size
    affine = np.eye(grid.dims + 1)
    affine[:-1, :-1] = grid.direction * spacing
    affine[:-1, -1] = grid.centre - affine[:-1, :-1] @ np.full(grid.dims, 0.5 * (size - 1))
    return Grid([size] * grid.dims, affine)


def averaged(image: Image, spacing: float) -> Image:
    """The image with voxels not much smaller than that, each the mean of those that it covers."""
    grid = coarser(image.grid, [max(1.0, spacing / own) for own in image.grid.spacing])
    return replace(image, array=shrink(image.array[None].float(), grid.shape)[0], grid=grid)


def predict(network: nn.Module, image: Tensor, grid: Grid) -> Transform:
    """The transform that a network predicts for (1, 2, *grid) of moving and fixed, on the CPU."""
    transform: Transform
    with torch.no_grad():
        if hasattr(network, "transform"):
            transform = cast(PredictsTransform, network).transform(image, grid)
        else:
            transform = DisplacementField(network(image)[:, 1:].float(), grid)
    return transform.cpu()


def check_passes(passes: int) -> int:
    if not isinstance(passes, int) or isinstance(passes, bool) or passes < 1:
        raise ValueError(f"passes must be a whole number, 1 or more, got {passes!r}.")
    return passes


def in_passes(network: nn.Module, image: Tensor, grid: Grid, passes: int) -> Transform:
    """The transform of so many passes for (1, 2, *grid) of moving and fixed, on the CPU: of the network's own kind
    after one, a matrix if each is one, else a displacement on the grid."""
    moving, fixed = image[:, :1], image[:, 1:]
    found = predict(network, image, grid)
    for _ in range(passes - 1):
        warped = warp(moving, found.field(grid).to(image))
        then = predict(network, torch.cat([warped, fixed], 1), grid)
        found = composed(then, found)
        if not isinstance(found, Affine):
            found = DisplacementField(found.field(grid), grid)
    return found


def adapted(
    network: nn.Module,
    objective_of: Callable[[nn.Module], nn.Module],
    image: Tensor,
    descent: Descent,
    mask: Tensor | None = None,
) -> nn.Module:
    """A copy of the network that registers this image (1, 2, *spatial) of moving and fixed better; the original is not
    modified.

    `mask` says which voxels of both count, (1, 2, *spatial) of 0 and 1. The weights with the lowest loss are kept.
    Layers stay in evaluation mode, and there is no augmentation.
    """
    network = deepcopy(network).eval().requires_grad_(True)
    objective = objective_of(network).eval()
    inputs = [image] if mask is None else [image, mask.to(image.device)]
    with torch.enable_grad():
        descent.minimise(lambda: objective(*inputs)["loss"], list(network.parameters()), ADAPTATION_RATE)
    return network.requires_grad_(False)
