"""The command `warpzoo deploy`."""

from __future__ import annotations

import tempfile
from pathlib import Path


def deploy(bundle: str, *, output: str, kind: str | None = None) -> None:
    """Writes an application of MONAI Deploy that runs a bundle on what is in a folder.

    The output folder gets the released bundle, which needs no warpzoo, the application's operators, which read and
    write NIfTI, ITK transforms and DICOM, requirements.txt, a Dockerfile, and a README.md with the commands to run and
    to package it.

    Args:
        bundle: name or folder of a bundle, also of a fetched one, or a zip file of warpzoo release.
        output: a new folder for the application.
        kind: what it does: pair (registers two images), sequence (the frames of a time-lapse) or denoising; without,
            what the bundle is for.
    """
    from warpzoo.bundles import find_bundle
    from warpzoo.deployment.writing import write_application
    from warpzoo.sharing.archive import unpack
    from warpzoo.sharing.checks import check

    with tempfile.TemporaryDirectory() as temporary:
        given = check(unpack(Path(bundle), Path(temporary))) if bundle.endswith(".zip") else find_bundle(bundle)
        made = write_application(given, Path(output).absolute(), kind)
    print(f"{made}: python {output}/application -i INPUT -o OUTPUT -m {output}/models")
