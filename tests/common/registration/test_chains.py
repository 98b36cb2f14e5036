"""Chains of methods by name."""

from __future__ import annotations

import pytest

from warpzoo.registration import find_methods
from warpzoo.registration.network import NetworkMethod


def networks(chain: str, **options: str) -> list[tuple[str, str, int]]:
    found = [method for method in find_methods(chain, **options) if isinstance(method, NetworkMethod)]
    return [(method.bundle.name, method.weights.stem, method.passes) for method in found]


def test_every_network_of_a_chain_may_be_a_variant() -> None:
    chain = "affine,fcn_multires:any,fcn_multires:any,fcn_multires,stn_affine"
    assert networks(chain) == [("fcn_multires", "any", 2), ("fcn_multires", "model", 1), ("stn_affine", "model", 1)]
    assert networks("fcn_multires:paper+coarse") == networks("fcn_multires", variant="paper,coarse")
    assert networks("fcn_multires:any,fcn_multires", variant="paper,coarse") == networks(
        "fcn_multires:any,fcn_multires:paper+coarse"
    )


@pytest.mark.parametrize(
    ("chain", "options", "message"),
    [
        ("fcn_multires:anny", {}, r"variant must be one of fcn_multires's .*did you mean any"),
        ("affine:any", {}, "variants must follow the name of a bundle"),
        ("fcn_multires:", {}, "variants must follow the name of a bundle"),
        ("fcn_multires:any", {"variant": "short"}, "variant must not be given twice"),
        ("fcn_multires:any,affine:", {}, "variants must follow"),
    ],
)
def test_bad_variants_in_chains(chain: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_methods(chain, **options)


@pytest.mark.parametrize("folder", [r"C:\bundles\mine", "C:/bundles/mine", "./somewhere:else/mine"])
def test_a_colon_in_a_folder_names_no_variant(folder: str) -> None:
    with pytest.raises(ValueError, match="bundle_root must be the folder of a bundle"):
        find_methods(folder)
