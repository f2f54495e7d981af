"""What is written for Envoy: bootstraps and filters."""
