"""The client: its records, its budget and its policy; and the app that answers the server."""
