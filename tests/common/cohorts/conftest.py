"""The command, and images to build templates of."""

from ..registration.conftest import save, smooth, warpzoo  # noqa: F401 (a fixture)
