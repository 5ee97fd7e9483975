"""Encrypted sums: CKKS parameters and packing, signed contributions, aggregation, and the key authority."""
