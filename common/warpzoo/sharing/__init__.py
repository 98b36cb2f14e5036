"""Bundles on their way to other people: checked, exported, packed so that they run alone."""
