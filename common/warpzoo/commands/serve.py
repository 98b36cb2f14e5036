"""The command `warpzoo serve`."""

from __future__ import annotations

import os

LAST_SECONDS = 5
"""For what is at work when the server is to end."""


def serve(
    *,
    method: str | None = None,
    quality: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    most_mb: float = 512.0,
    most_waiting: int = 16,
    budget: str = "10min",
    refine: str = "0",
    threads: int | None = None,
    device: str | None = None,
    weights: str | None = None,
    variant: str | None = None,
) -> None:
    """Registers over HTTP: two files in, results out, and a page to drop two files on.

    POST /register with the files fixed and moving gives a zip file of what `warpzoo register` writes; an error is one
    sentence as JSON. A file is NIfTI, MetaImage, NRRD, PNG, JPEG or TIFF, or a DICOM series as .zip; two series also
    give registration.dcm and report.dcm. Pairs are registered one after the other; images of more voxels than memory
    allows are refused. There is no password: before others than this machine may ask, put it behind a server that has
    one.

    Args:
        method: as in `warpzoo register`, such as affine,svf or the folder of a released bundle.
        quality: without a method, as in `warpzoo register`: fast, usual (the default) or best.
        host: address to listen on; 0.0.0.0 for all of this machine's.
        port: to listen on.
        most_mb: how many megabytes both files may have together.
        most_waiting: how many pairs may be at work or wait; further ones are told to come again later.
        budget: of a pair, as in `warpzoo register`.
        refine: as in `warpzoo register`.
        threads: how many to compute with; default: as PyTorch chooses.
        device: such as cuda:1 or cpu; default: the GPU if there is one.
        weights: file of weights for the (last) network, instead of the shipped ones; as in `warpzoo register`.
        variant: of the (last) network, that the weights were trained with.
    """
    import torch

    from warpzoo import __version__
    from warpzoo.registration.budget import time_limit
    from warpzoo.registration.methods import find_methods, is_usual, method_of
    from warpzoo.registration.usual import USUAL_QUALITY

    for name, value in (("port", port), ("most_mb", most_mb), ("most_waiting", most_waiting)):
        if not 0 < value < 2**16:
            raise ValueError(f"{name} must be above 0 and below {2**16}, got {value:g}.")
    try:
        import uvicorn

        from warpzoo.deployment.serving import service_application
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error.name} must be installed for this command: pip install starlette uvicorn python-multipart pydicom, "
            f"or bash scripts/setup.sh serve in the checkout."
        ) from error

    usual = is_usual(method, weights, quality)
    chain = f"the usual methods ({quality or USUAL_QUALITY} quality)" if usual else method or method_of(str(weights))
    methods = find_methods(method, None, refine, 0, weights, variant, device, None, quality)
    if threads is not None:
        torch.set_num_threads(threads)
    limits = {"budget": time_limit(budget)}
    application = service_application(methods, chain, __version__, int(most_mb * 2**20), most_waiting, usual, **limits)
    print(f"http://{host}:{port}: {chain}; Ctrl-C ends it", flush=True)
    uvicorn.run(application, host=host, port=port, log_level="warning", timeout_graceful_shutdown=LAST_SECONDS)
    if application.state.service.waiting:  # a pair that is at work would hold the process
        os._exit(1)
