"""Technical building blocks shared by the gateway and the services; see this package's README for the list."""
