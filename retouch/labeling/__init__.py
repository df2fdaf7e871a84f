"""A page for labeling images with the help of an encoder: ``retouch label encoder=RUN data=IMAGES -o label.html``.

settings.py     encoder, data
images.py       the content of the page: features, thumbnails, paths
page.py         writes the file, from page.html.jinja and label.js
label.js        in the browser: classes, a ridge classifier on the features, labels.csv
"""
