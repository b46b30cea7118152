"""Who made the first NaN or Inf: what is kept until the update, the wire, and the search."""
