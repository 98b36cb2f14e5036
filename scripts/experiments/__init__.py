"""The papers' experiments, one module each; `scripts/reproduce.py` runs them."""
