"""Where it runs: places, the store, leases, jobs and the driver that feeds them."""
