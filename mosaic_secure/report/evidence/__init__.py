"""The evidence pack: what runs may show to others, signed, in a folder and a zip that are checked offline."""
