"""Many pairs and many subjects: lists, one after the other or on a cluster, and templates."""
