"""Will pretraining help on my pictures, by how much, and with which method? ``retouch study`` answers within a budget.

config.py       settings
images.py       the images: a pool without labels, and labeled sets whose test images are not in the pool
contestants.py  the methods that compete
judge.py        cross-validated ridge regression on frozen features: the one rule for all choices
plan.py         how the time is divided: rung lengths in seconds and in steps, as pure arithmetic
journal.py      what a study keeps on disk, so that it can be resumed
race.py         successive halving of the networks
budget.py       turns measurements on this machine into a plan
wider.py        the leading dictionary, learned again with more atoms
scratch.py      the network trained on the labels alone
final.py        the end: tests, the linear probe of the winner, the network from scratch
rivals.py       what the winner is compared with
verdict.py      the answer in plain words, from typed facts
results.py      results.json; outcome.py fills it
table.py        the table on the console
run.py          the stage
command.py      the stage as a command, whose budget counts from the start of the process
"""
