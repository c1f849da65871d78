"""The reverse processes: samplers whose steps go from noisy to clean."""
