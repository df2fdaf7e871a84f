"""Will pretraining help on my pictures, by how much, and with which method? ``retouch study`` answers within a budget.

config.py       settings
images.py       the images: a pool without labels, and labeled sets whose test images are not in the pool
contestants.py  who competes
judge.py        cross-validated ridge on frozen features: the one rule by which everything is chosen
plan.py         the time: rung lengths in seconds and in steps, as pure arithmetic
journal.py      what a study remembers on disk, to be continued
race.py         successive halving of what learns by gradient
budget.py       from measurements on this machine to a plan
wider.py        the dictionary that leads, learned again with more atoms
scratch.py      the network that is trained on the labels alone
final.py        the end: tests, the linear probe of the winner, the network from scratch
rivals.py       whom the winner is compared with
verdict.py      the answer in plain words, from typed facts
results.py      results.json; outcome.py fills it
table.py        the table on the console
run.py          the stage
command.py      the stage as a command, whose budget counts from the start of the process
"""
