"""A bundle's model card: one page for whoever finds it in a registry, made of its metadata and results.

The lines on top are what the Hugging Face hub reads of a `README.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warpzoo.bundles import Bundle
from warpzoo.sharing.results import results

TAG = {"registration": "image-registration", "denoising": "image-denoising"}


def card(bundle: Bundle) -> str:
    metadata, task = bundle.metadata, bundle.task or "other"
    command = {
        "registration": f"warpzoo register fixed.nii.gz moving.nii.gz --method {bundle.name} --output out",
        "denoising": f"warpzoo denoise noisy.tif --method {bundle.name} --output denoised.tif",
    }[task]
    files = {"registration": "--fixed fixed.nii.gz --moving moving.nii.gz", "denoising": "--image noisy.tif"}[task]
    packages = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
        **metadata["required_packages_version"],
    }
    numbers = results(bundle)
    parts = [
        f"---\nlicense: apache-2.0\nlibrary_name: monai\npipeline_tag: image-to-image\ntags: [monai, {TAG[task]}]\n---",
        f"# {metadata['name']}",
        metadata["description"],
        _table(
            ("", ""),
            {
                "for": metadata["task"],
                "dimensions": bundle.spatial_dims,
                "weights from": metadata["data_source"],
                "images": ", ".join(str(metadata[key]) for key in ("data_type", "image_classes") if key in metadata),
                "input": _channels(metadata["network_data_format"]["inputs"]["image"]),
                "output": _channels(metadata["network_data_format"]["outputs"]["pred"]),
                "version": f"{metadata['version']}: {metadata['changelog'][metadata['version']]}",
                "made by": metadata["authors"],
                "intended use": metadata["intended_use"],
            },
        ),
        "## Results\n\n"
        + (
            _table((f"*{metadata['results']['row']}* in the tables", "mean"), numbers)
            + "\n\nThe tables with data, machine, seed and other methods: `docs/results.md` where it is there."
            if numbers
            else "None are published yet."
        ),
        "## Use\n\n"
        f"Where warpzoo is installed:\n\n```bash\n{command}\n```\n\n"
        "Without it, in the folder that the bundle was unpacked in, by MONAI, with Python 3.11 or later:\n\n"
        f"```bash\npip install {' '.join(f'{name}=={version}' for name, version in packages.items())}\n"
        f"python -m monai.bundle run --config_file {bundle.name}/configs/inference.json \\\n"
        f"    --bundle_root {bundle.name} {files} --output_dir out\n```",
        "## Limits\n\n"
        "Weights are for images like those that they were trained on. What a bundle's configuration says is run as "
        "code: use bundles of people whom you trust.",
    ]
    if metadata.get("references"):
        parts.append("## References\n\n" + "\n".join(f"- {one}" for one in metadata["references"]))
    parts.append(f"{metadata['copyright']}. Apache License 2.0; terms of the data: `docs/data_license.txt`.")
    return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [head, ("---", "---"), *((key, str(value)) for key, value in rows.items())]
    return "\n".join(f"| {key} | {value} |" for key, value in lines)


def _channels(tensor: Mapping[str, Any]) -> str:
    return ", ".join(tensor.get("channel_def", {}).values()) or f"{tensor['num_channels']} channels"
