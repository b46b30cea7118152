"""What watching costs: gradscope and its peers against the bare loop."""
