"""From logged engagement to the next variant: examples, rewards, losses, the round and its gate."""
