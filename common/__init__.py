"""What all stages share: configs, data, corruptions, encoders, solvers, the train loop, run folders, the machine."""
