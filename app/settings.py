"""Every setting of the control plane and the agent."""
