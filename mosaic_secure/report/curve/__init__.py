"""`mosaic-secure curve`: what a sweep over epsilon is asked for, costs and shows."""
