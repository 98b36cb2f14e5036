"""python application -i INPUT -o OUTPUT -m MODELS: runs the released bundle in MODELS on what is in INPUT."""

import os
import sys
from pathlib import Path

from monai.deploy.core import Application

HERE = Path(__file__).resolve().parent


def main() -> None:
    context = Application.init_app_context(sys.argv)
    models = Path(context.model_path).resolve()
    roots = [one.parents[1] for one in (*models.glob("configs/metadata.json"), *models.glob("*/configs/metadata.json"))]
    if len(roots) != 1:
        sys.exit(f"{models} must have one released bundle, got {len(roots)}; say where it is with -m.")
    sys.path[:0] = [str(roots[0])]

    import warpzoo

    warpzoo.__path__.append(str(HERE / "warpzoo"))  # the bundle's own copy, and beside it what runs it here
    from warpzoo.deployment.application.applications import BundleApplication
    from warpzoo.errors import FAILURES, plain_reason

    config = Path(os.environ.get("HOLOSCAN_CONFIG_PATH", HERE / "app.yaml"))
    try:
        BundleApplication(roots[0], context, config).run()
    except FAILURES as error:
        sys.exit(f"error: {plain_reason(error)}")


if __name__ == "__main__":
    main()
