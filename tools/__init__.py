"""Programs that make what the checkout needs: environments, locks, the container image."""
