"""Rate limits: pure algorithm, policy table, stores."""
