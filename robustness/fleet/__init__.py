"""A run over the machines of a cluster: one task per checkpoint, merged into one verdict."""
