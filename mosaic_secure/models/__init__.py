"""Networks by name: classifiers, generators and discriminators, encoders.

Importing this package is cheap; torch is imported by the modules that need it.
"""
