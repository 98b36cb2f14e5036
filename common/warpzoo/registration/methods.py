"""A chain of methods by name: bundles, methods that need no network, and refinement."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from warpzoo.bundles import find_bundle, variant_names
from warpzoo.classical import CLASSICAL, classical_method
from warpzoo.registration.budget import Budget
from warpzoo.registration.usual import (
    QUALITIES,
    USUAL_QUALITY,
    Quality,
    check_quality,
    networks_for_any,
    usual_methods,
)

if TYPE_CHECKING:
    from warpzoo.registration.network import NetworkMethod
    from warpzoo.registration.pair import Method

OPTIMISED = {
    "rigid": "rotation and translation, from any placement",
    "affine": "rotation, translation, scale and shear, from any placement",
    "ffd": "free-form deformation by a cubic B-spline, kept from folding",
    "svf": "stationary velocity field: smooth, and can be inverted",
}
"""What each method finds that needs no network."""
WITHOUT_NETWORK = (*OPTIMISED, *CLASSICAL)


def is_usual(chain: str | None, weights: str | None, quality: str | None = None) -> bool:
    """Whether it is up to us what is done. Weights alone are a method; with a quality they are the network of it."""
    return chain is None and (weights is None or quality is not None)


def method_of(weights: str) -> str:
    """The bundle that these weights are of."""
    from warpzoo.networks import read_about

    bundle = read_about(weights).get("bundle")
    if not isinstance(bundle, str):
        raise ValueError(f"method must be given: {weights} does not say which network it is of.")
    return bundle


def find_methods(
    chain: str | None = None,
    similarity: str | None = None,
    refine: str | float = 0,
    adapt: str | float = 0,
    weights: str | None = None,
    variant: str | None = None,
    device: str | None = None,
    resolution: float | None = None,
    quality: str | None = None,
) -> list[Method]:
    """The methods of a chain such as "affine,svf", in order.

    Args:
        chain: names of methods and bundles, or folders of bundles, joined by commas; a bundle's variants may follow
            its name, as in bundle:variant+another. A bundle named several times in a row is one
            network that looks as often, see `NetworkMethod`; default: the network of the weights, or without weights
            `usual_methods`.
        similarity: what methods without a network, and refinement, maximise.
        refine: iterations or seconds of refinement after the last network.
        adapt: iterations or seconds of the last network's training on the pair.
        weights: of the last network, instead of the shipped ones, or with a quality of the usual methods' network.
        variant: of the last network, several joined by commas, if the chain does not say.
        device: "cuda" if there is a GPU, else "cpu", if not given.
        resolution: of the fixed image's voxels, in its world, at which ffd, svf and refinement compare the images at
            their finest, where they are smaller; without, their own, or if they are more than `MOST_VOXELS` just as
            much larger ones. rigid and affine, which need fewer voxels, do not go below it.
        quality: of the usual methods, one of `QUALITIES`.
    """
    if similarity is not None:
        from warpzoo.registration.similarities import check_similarity

        check_similarity(similarity)
    if resolution is not None and (isinstance(resolution, (bool, str)) or not 0 < resolution < float("inf")):
        raise ValueError(f"resolution must be a length above 0, got {resolution!r}.")
    refinement, adaptation = Budget.read("refine", refine), Budget.read("adapt", adapt)
    from warpzoo.checks import chosen_device

    if is_usual(chain, weights, quality):
        for option, there in {"refine": refinement, "adapt": adaptation, "variant": variant}.items():
            if there:
                raise ValueError(f"method must be given with {option}, which is of a network of one's choice.")
        chosen = QUALITIES[check_quality(quality or USUAL_QUALITY)]
        return _usual(chosen, similarity, weights, chosen_device(device), resolution)
    if quality is not None:
        raise ValueError(f"quality must only be given where no method is, got {quality!r}.")
    chain = method_of(str(weights)) if chain is None else chain
    if not isinstance(chain, str):
        raise ValueError(f"method must be names joined by commas, such as affine,svf, got {chain!r}.")
    stages = [(*stage, len(list(times))) for stage, times in groupby(map(_stage, chain.split(",")))]
    networks = [number for number, (name, _, _) in enumerate(stages) if name not in WITHOUT_NETWORK]
    optimised = any(name in OPTIMISED for name, _, _ in stages)
    for option, value in {
        "refine": refine if refinement else None,
        "adapt": adapt if adaptation else None,
        "weights": weights,
        "variant": variant,
    }.items():
        if value is not None and not networks:
            raise ValueError(f"{option} must not be given for a method without a network ({chain}), got {value!r}.")
    for option, value in {"similarity": similarity, "resolution": resolution}.items():
        if value is not None and not refinement and not optimised:
            raise ValueError(f"{option} must not be given where nothing is optimised ({chain}), got {value!r}.")
    if variant is not None and stages[networks[-1]][1] is not None:
        raise ValueError(f"variant must not be given twice, got {variant!r} and {chain!r}.")
    for number in networks:
        find_bundle(stages[number][0], "registration", WITHOUT_NETWORK)
    from warpzoo.registration.optimisation import Optimisation, Refinement

    device = chosen_device(device)
    methods: list[Method] = []
    for number, (name, own, times) in enumerate(stages):
        if name in OPTIMISED:
            methods += [Optimisation(name, similarity, device=device, resolution=resolution) for _ in range(times)]
        elif name in CLASSICAL:
            methods += [classical_method(name) for _ in range(times)]
        elif number == networks[-1]:
            methods.append(network_method(name, device, times, own or variant, weights, adapt))
            if refinement:
                methods.append(Refinement(refinement, similarity, device, resolution=resolution))
        else:
            methods.append(network_method(name, device, times, own))
    return methods


def _usual(
    quality: Quality, similarity: str | None, weights: str | None, device: str, resolution: float | None
) -> list[Method]:
    networks: Sequence[Method] = networks_for_any(quality.passes, quality.seen, device)
    if weights is not None:
        name = method_of(weights)
        networks = [network_method(name, device, quality.passes, weights=weights, most_voxels=quality.seen)]
    return usual_methods(quality, networks, similarity, device, resolution)


def one_network(chain: str) -> tuple[str, list[str], int]:
    """The bundle, its variants and how often it looks, of a chain that names one network alone."""
    stages = {*map(_stage, chain.split(","))}
    if len(stages) > 1 or (name := next(iter(stages))[0]) in WITHOUT_NETWORK:
        raise ValueError(f"method must be one network, named as often as it looks, got {chain!r}.")
    variants = next(iter(stages))[1]
    return name, variant_names(variants), chain.count(",") + 1


def _stage(text: str) -> tuple[str, str | None]:
    """A method and, joined by commas, its variants; the colon of a Windows path is none of ours."""
    name, colon, variants = text.strip().rpartition(":")
    if not colon or "\\" in variants or "/" in variants:
        return text.strip(), None
    if name in WITHOUT_NETWORK or not variants:
        raise ValueError(
            f"variants must follow the name of a bundle, as in bundle:variant+another, got {text.strip()!r}."
        )
    return name, variants.replace("+", ",")


def network_method(
    name: str,
    device: str,
    passes: int = 1,
    variant: str | None = None,
    weights: str | None = None,
    adapt: str | float = 0,
    most_voxels: int | None = None,
) -> NetworkMethod:
    """The method that a bundle's inference.json describes, at `most_voxels` if those are given."""
    import torch

    bundle = find_bundle(name, "registration")
    variants = variant_names(variant)
    bundle.settings("inference", variants)  # refuses a variant that is not there, before weights are missed
    file = bundle.weights(variants)
    if weights is None and variants and not file.exists():
        raise ValueError(
            f"weights must be given for variant {variant!r} of {bundle.name}, which comes with none; shipped are: "
            f"{', '.join(bundle.shipped_weights()) or 'none'}."
        )
    settings: dict[str, Any] = {"method#variants": variants, "method#passes": passes}
    settings |= {} if most_voxels is None else {"method#most_voxels": most_voxels}
    if weights is not None:
        from warpzoo.bundles.portable import carried_settings, stated_range
        from warpzoo.networks import read_about

        about = read_about(weights)
        settings |= {} if variants else carried_settings(about, bundle, weights)
        stated = stated_range(about)
        settings |= {"method#spacing": stated["spacing"]} if "spacing" in stated else {}
        settings["method#trained_on"] = stated.get("training_data")
    method: NetworkMethod = bundle.part(
        "method",
        "inference",
        variants,
        device=torch.device(device),
        weights=str(file) if weights is None else weights,
        adapt=adapt,
        **settings,
    )
    return method
