"""The agent: makes a workload's key, has it certified by the control plane, and serves it to Envoy on a Unix socket."""
