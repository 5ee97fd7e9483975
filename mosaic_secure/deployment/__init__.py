"""A federation on machines of its own: who takes part, what each party holds, and whether it will work."""
