"""Holds bundles against the rules of MONAI's model zoo, as `warpzoo release` does.

python scripts/verify_bundles.py [FOLDER …]      all of bundles/ by default
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from warpzoo.bundles import open_bundle
from warpzoo.sharing.rules import RULES, broken_rules

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", type=Path, help="folders of bundles")
    folders = parser.parse_args().bundles or sorted(
        path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json")
    )
    wrong = 0
    for folder in folders:
        try:
            broken = broken_rules(open_bundle(folder))
        except ValueError as error:
            parser.error(str(error))
        print(f"{folder.name}: {'obeys ' + ', '.join(RULES) if not broken else 'breaks'}")
        for sentence in broken:
            print(f"  {sentence}")
        wrong += bool(broken)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
