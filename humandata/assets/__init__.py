"""Data the package ships: the stand-in body."""
