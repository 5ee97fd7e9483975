"""The server: it sees budgeted releases and decrypted sums, and builds one global model from them."""
