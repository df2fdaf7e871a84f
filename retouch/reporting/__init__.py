"""One page with the findings of some runs: ``retouch report RUN... -o report.html``.

reading.py    run folders as facts: runs.py has the types of one run, facts.py what all runs of a report say together
compare.py    which differences are shown, with Holm's correction
sentences.py  facts in plain English
question.py   the question; answer.py: the answer; names.py: short names of data
trained.py    networks trained on labels, compared across runs
limits.py     what the results do not show
tables.py     facts as tables: results and choices; run_tables.py: data, codes; cost_tables.py
confidence.py how well calibrated the classifiers are
layers.py     what the search shows about layers and poolings
places.py     test images in an encoder's feature space; places_part.py: the part of the page about it
atoms_part.py the part about atoms of dictionaries
charts.py     facts as SVG
pictures.py   images as data URIs
blocks.py     the blocks of which parts of the page consist
study.py      the part about a study
parts.py      the parts, in the order of the page
page.py       parts as HTML (page.html.jinja), and the file
card.py       some of the parts as Markdown: a model card
"""
