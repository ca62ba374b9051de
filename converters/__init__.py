"""One file per dataset: raw annotations in, columns of a store out."""
