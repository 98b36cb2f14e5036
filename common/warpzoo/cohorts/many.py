"""Many pairs of files, one after the other or on a cluster: the same function registers each, and the same tables tell
of all."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from warpzoo.bundles import absolute_name
from warpzoo.checks import check_truth
from warpzoo.errors import FAILURES, plain_reason
from warpzoo.files import alone_in
from warpzoo.images.resampling import Resampling
from warpzoo.registration import listing
from warpzoo.registration.both_ways import register_both_ways
from warpzoo.registration.budget import time_limit
from warpzoo.registration.computing import computing
from warpzoo.registration.methods import find_methods, is_usual, method_of
from warpzoo.registration.network import NetworkMethod
from warpzoo.registration.pair import Method, register_pair
from warpzoo.registration.results import chosen_outputs, read_numbers, stages, summary, write_list, write_results
from warpzoo.registration.usual import USUAL_QUALITY, NetworkForAny

if TYPE_CHECKING:
    from warpzoo.cluster import Place


class Chain(NamedTuple):
    """What `find_methods` takes: plain values, which travel to other processes, where methods are made of them once."""

    chain: str | None
    similarity: str | None = None
    refine: str | float = 0
    adapt: str | float = 0
    weights: str | None = None
    variant: str | None = None
    device: str | None = None
    resolution: float | None = None
    quality: str | None = None

    def absolute(self) -> Chain:
        """The same from any working directory."""
        stages = self.chain and ",".join(map(absolute_name, self.chain.split(",")))
        return self._replace(chain=stages, weights=self.weights and str(Path(self.weights).expanduser().absolute()))


@dataclass(frozen=True)
class Recipe:
    """How pairs are registered and what is written of them.

    chain: what the methods were made of.
    settings: what `metrics.json` records; results with other ones are not those of this recipe.
    threads: of PyTorch, as many as it uses already if None.
    """

    chain: Chain
    methods: Sequence[Method]
    settings: Mapping[str, Any]
    resampling: Resampling
    strict: bool = False
    threads: int | None = None


def recipe_of(
    method: str | None = None,
    similarity: str | None = None,
    refine: str | float = "0",
    adapt: str | float = "0",
    weights: str | None = None,
    variant: str | None = None,
    device: str | None = None,
    resolution: float | None = None,
    quality: str | None = None,
    *,
    budget: str | float | None = None,
    channels: bool = False,
    landmarks_weight: float = 0.0,
    interpolation: str = "linear",
    outside: float | None = None,
    save: str | Sequence[str] | None = None,
    report: bool = True,
    inverse: bool = False,
    strict: bool = False,
    safe: bool = False,
    both_ways: bool = False,
    seed: int = 0,
    threads: int | None = None,
) -> Recipe:
    """A recipe of the options of `warpzoo register`, all of which are checked here."""
    if method is None and weights is not None and quality is None:
        method = method_of(weights)
    outputs = chosen_outputs(save, report, inverse)
    resampling = Resampling(interpolation, outside)
    chain = Chain(method, similarity, refine, adapt, weights, variant, device, resolution, quality)
    methods = find_methods(*chain)
    settings = {
        "method": method,
        "quality": (quality or USUAL_QUALITY) if is_usual(method, weights, quality) else None,
        "refine": refine,
        "adapt": adapt,
        "budget": time_limit(budget),
        "similarity": similarity,
        "landmarks_weight": landmarks_weight,
        "channels": channels,
        "seed": seed,
        "safe": safe,
        "both_ways": check_truth("both_ways", both_ways),
        "outputs": [*outputs],
        "interpolation": interpolation,
        "outside": outside,
        "resolution": resolution,
        "variant": variant,
        "weights": fingerprints(methods),
    }
    return Recipe(chain, methods, settings, resampling, strict, threads)


def register_files(files: Mapping[str, Any], folder: Path, recipe: Recipe, interruptible: bool = True) -> str:
    """Registers one pair and writes the results; returns the line that sums them up."""
    settings = recipe.settings
    listing.remove_results(folder, files)
    with computing(settings["seed"], recipe.threads):
        begun = time.perf_counter()
        pair = listing.read_pair(files, settings["landmarks_weight"], settings["channels"])
        read = {"read": time.perf_counter() - begun}
        registration = (register_both_ways if settings["both_ways"] else register_pair)(
            **pair,
            methods=recipe.methods,
            resampling=recipe.resampling,
            strict=recipe.strict,
            interruptible=interruptible,
            safe=settings["safe"],
            gaining=settings["quality"] is not None,
            budget=settings["budget"],
        )
        registration = replace(registration, seconds={**read, **registration.seconds})
        write_results(folder, registration, files, settings, settings["outputs"])
    numbers = read_numbers(folder)
    for warning in [] if files["id"] else numbers["warnings"]:
        print(f"warning: {warning}")
    if not files["id"] and (gained := stages(numbers)):
        print(gained)
    return summary(numbers)


def register_list(
    pairs: Sequence[Mapping[str, Any]],
    folder: Path,
    recipe: Recipe,
    overwrite: bool = False,
    keep_interrupted: bool = False,
    client: Any = None,
) -> dict[str, str]:
    """Registers pairs of `list_pairs`, each into a folder below this one, and writes the tables and the overview, also
    if it is interrupted; returns the reasons of those that failed, by id.

    Pairs whose results are there already are skipped. With a `distributed.Client` its workers do them.
    """
    with alone_in(folder):
        skipped = (
            set() if overwrite else {one["id"] for one in pairs if _is_done(folder, one, recipe, keep_interrupted)}
        )
        todo = [pair for pair in pairs if pair["id"] not in skipped]
        if skipped:
            print(f"{len(skipped)} of {len(pairs)} pairs are done already (--overwrite registers them again).")
        done, failures = skipped, {}
        register = _one_after_the_other if client is None else partial(_on_workers, client)
        try:
            ended = register(todo, folder, recipe) if todo else ()
            for name, why in tqdm(ended, desc="Registering", unit="pair", total=len(todo)):
                if why is None:
                    done.add(name)
                else:
                    failures[name] = why
        finally:  # also of a list that is interrupted, or ends by a bug
            write_list(folder, [pair["id"] for pair in pairs], done, failures)
    return failures


def _one_after_the_other(
    pairs: Iterable[Mapping[str, Any]], folder: Path, recipe: Recipe
) -> Iterator[tuple[str, str | None]]:
    """The id of each pair, and the reason if it fails. After one that Ctrl-C has ended early, it ends everything."""
    interrupted = False
    for pair in pairs:
        why = attempt(pair, folder, recipe, not interrupted)
        if why is None:
            interrupted |= read_numbers(folder / pair["id"])["interrupted"]
        yield pair["id"], why


def attempt(pair: Mapping[str, Any], folder: Path, recipe: Recipe, interruptible: bool = True) -> str | None:
    """Registers a pair of a list; returns the reason if it fails."""
    try:
        register_files(pair, folder / pair["id"], recipe, interruptible)
    except FAILURES as error:
        return plain_reason(error)
    return None


def _on_workers(
    client: Any, pairs: Sequence[Mapping[str, Any]], folder: Path, recipe: Recipe
) -> Iterator[tuple[str, str | None]]:
    """The same on the workers of a client: recipe, paths and reasons travel."""
    from warpzoo.cluster import Died

    pairs = [listing.absolute(pair) for pair in pairs]
    inputs = {path.parent for pair in pairs for role in pair for path in listing.paths_of(pair, role)}
    inputs = {one for one in inputs if one.exists()}  # a pair with a folder that is nowhere fails alone
    for pair, why in on_workers(client, partial(_attempt_in, folder), pairs, recipe, folder, inputs):
        if isinstance(why, Died):
            listing.remove_results(folder / pair["id"], pair)
            why = why.reason
        yield pair["id"], why


def _attempt_in(folder: Path, pair: Mapping[str, Any], recipe: Recipe) -> str | None:
    return attempt(pair, folder, recipe)


def on_workers(
    client: Any,
    function: Callable[[Any, Recipe], Any],
    items: Sequence[Any],
    recipe: Recipe,
    output: Path,
    inputs: Collection[Path],
) -> Iterator[tuple[Any, Any]]:
    """`function(item, recipe)` on the workers of a client, which must see the folders; see `cluster.outcomes`."""
    from warpzoo.cluster import check_workers, outcomes

    # methods are made on each worker, from any working directory
    recipe = replace(recipe, chain=recipe.chain.absolute(), methods=())
    needs = check_workers(client, output, inputs, partial(_recipe_on, recipe))
    yield from outcomes(client, partial(_with_recipe, function, recipe), items, needs, recipe.threads)


def _with_recipe(function: Callable[[Any, Recipe], Any], recipe: Recipe, item: Any, place: Place) -> Any:
    return function(item, _recipe_on(recipe, place))


def _recipe_on(recipe: Recipe, place: Place) -> Recipe:
    """The recipe with the methods of this worker."""
    chain = recipe.chain._replace(device=place.device(recipe.chain.device))
    return replace(recipe, methods=_methods_of(chain, tuple(recipe.settings["weights"])))


@lru_cache(maxsize=1)
def _methods_of(chain: Chain, weights: tuple[str, ...]) -> Sequence[Method]:
    """Kept for the pairs that follow on this worker, with their networks loaded."""
    methods = find_methods(*chain)
    if fingerprints(methods) != [*weights]:
        raise ValueError(f"the weights of {chain.chain} must be the same on all workers, got others.")
    for method in methods:
        if isinstance(method, NetworkForAny):
            method = method.method
        if isinstance(method, NetworkMethod):
            method.ready()
    return methods


def fingerprints(methods: Iterable[Method]) -> list[str]:
    """Identify the weights of each method that has some: the first half of their SHA-256; empty if there is no file."""
    files = [method.weights for method in methods if isinstance(method, NetworkMethod)]
    return [sha256(file.read_bytes()).hexdigest()[:32] if file.is_file() else "" for file in files]


def say_list(folder: Path, count: int, failures: Mapping[str, str]) -> None:
    """Prints how a list has ended; raises a ValueError if pairs have failed."""
    if len(failures) < count:
        print(f"{count - len(failures)} of {count} pairs registered: {folder / 'overview.html'}, metrics.csv")
    for name, why in failures.items():
        print(f"  {name}: {why}")
    if failures:
        raise ValueError(f"{len(failures)} of {count} pairs failed: {folder / 'failures.csv'}")


def _is_done(folder: Path, pair: Mapping[str, Any], recipe: Recipe, keep_interrupted: bool) -> bool:
    """Whether the pair's folder holds the complete results of the same files and settings."""
    try:
        numbers = read_numbers(folder / pair["id"])
    except (OSError, ValueError):
        return False
    there = {"files": listing.names_from(folder / pair["id"], pair), "settings": dict(recipe.settings)}
    return there.items() <= numbers.items() and (keep_interrupted or not numbers.get("interrupted"))
