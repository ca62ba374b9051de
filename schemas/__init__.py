"""Data, not code: the fields of a store, the joint conventions, the configuration of a run."""
