"""What registration networks share: layers, layouts, weights."""
