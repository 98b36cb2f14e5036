"""The command `warpzoo fetch`."""

from __future__ import annotations


def fetch(source: str, address: str | None = None) -> None:
    """Fetches a bundle, to be used by its name as those that come with warpzoo.

    It is checked first, and refused whole if anything is wrong: its checksum, names of files that lead elsewhere,
    metadata, weights that are more than numbers. None of its code is run before it is used; then it is, as with any
    bundle: fetch from people whom you trust. A fetched bundle comes before a shipped one of the same name; a new one
    replaces it. To be rid of it, remove its folder.

    Args:
        source: FOLDER/NAME, where FOLDER is a folder or an http address with a model_info.json, and NAME a bundle
            (its latest version) or one version such as NAME_v0.1.0; models:/NAME@ALIAS or models:/NAME/VERSION of
            MLflow; hf://OWNER/NAME or hf://OWNER/NAME@v0.1.0 of the Hugging Face hub.
        address: MLflow's server or database (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db).
    """
    from warpzoo.sharing.fetching import fetch as take

    taken = take(source, address)
    bundle = taken.bundle
    how = "register" if bundle.task == "registration" else "denoise"
    where = f"{'replaced' if taken.replaced else 'now'} in {bundle.root}"
    print(f"{bundle.name}: version {bundle.metadata['version']}, {where}; warpzoo {how} … --method {bundle.name}")
