"""From stores to trained networks to numbers."""
