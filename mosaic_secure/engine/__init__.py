"""The same ServerApp and ClientApp run in worker processes here, or in Flower's simulation engine."""
