"""The graph behind a loss: walked, named, and asked what it says of losses and cuts."""
