"""`retouch export`: a trained network as a file that works without Retouch."""
