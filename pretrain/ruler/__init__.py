"""The ruler: what trivial restorers reach, whether the network is healthy, and what that means, in words."""
