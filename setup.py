"""Puts the bundles into the wheel, as warpzoo/shipped/<name>; everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithBundles(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "runs", ".*")
            shutil.copytree("bundles", Path(self.build_lib, "warpzoo", "shipped"), ignore=ignored, dirs_exist_ok=True)


setup(cmdclass={"build_py": WithBundles})
