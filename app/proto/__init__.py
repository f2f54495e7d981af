"""Messages of protocols that no package ships, generated from /proto: `make proto`."""
