"""Which faults of backward passes are found, and where, by gradscope and by others."""
